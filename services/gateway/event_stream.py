"""The response of a streamed request: server-sent events in OpenAI's shape, raw ASGI.

Headers go out with the first event, so that an early error is a real status code. A client that would wait too long
for it gets 200 and pings; what goes wrong afterwards is an error event.
"""

import time
from dataclasses import dataclass

from services.gateway.awaited_outcome import outcome_response
from services.gateway.error_responses import error_body, error_response, render_error
from services.gateway.followed_response import FollowedResponse
from services.gateway.following import Following
from services.gateway.http_boundary import Exchange, Receive, Scope, Send
from services.gateway.server_sent_events import DONE, PING, event, event_with_id, format_position
from services.gateway.stream_reader import Progress
from shared.contracts.errors import PlatformError
from shared.contracts.events import Outcome, SealedOutcome
from shared.openai.outcomes import sealed_summary
from shared.openai.streaming import StreamRenderer
from shared.resilience.clock import Clock
from shared.telemetry import spans
from shared.telemetry.metrics import GATEWAY_FIRST_EVENT

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTimes:
    """When a stream that has nothing to say says so. From the settings."""

    first_event_seconds: float
    ping_seconds: float


class EventStream(FollowedResponse):
    def __init__(
        self,
        following: Following,
        renderer: StreamRenderer,
        *,
        pool: str,
        times: StreamTimes,
        clock: Clock,
    ) -> None:
        super().__init__(following)
        self._renderer = renderer
        # What the client has of each choice, as it stands in event ids.
        self._marks = [format_position(position) for position in following.positions]
        self._pool = pool
        self._times = times
        self._clock = clock
        self._is_started = False
        self._sent_at = clock.monotonic()

    async def answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        started_ns = time.time_ns()
        try:
            await self._run(exchange, scope, receive, send)
        except PlatformError as error:
            exchange.error_code = error.code
            await self._refuse(error, scope, receive, send)
        finally:
            spans.record_span(
                spans.STREAM,
                exchange.trace_context,
                started_ns,
                time.time_ns(),
                {spans.REQUEST_ID: self._following.request_id},
            )

    async def _run(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        following = self._following
        while not following.is_disconnected:
            progress = await following.next()
            terminal = progress.terminal
            if terminal is not None and terminal.outcome is not Outcome.COMPLETED:
                exchange.error_code = _code_of(terminal)
                if not self._is_started and not progress.chunks:
                    await outcome_response(terminal)(scope, receive, send)
                    return
            frames = self._frames(progress)
            if frames:
                if not self._is_started:
                    waited = time.perf_counter() - exchange.started_at
                    GATEWAY_FIRST_EVENT.labels(self._pool).observe(waited, spans.exemplar_of(exchange.span))
                await self._send(frames, send)
            elif self._is_ping_due():
                await self._send(PING, send)
            if terminal is not None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return

    def _frames(self, progress: Progress) -> bytes:
        frames: list[bytes] = []
        marks = self._marks
        for chunk, position in zip(progress.chunks, progress.positions, strict=True):
            marks[chunk.choice] = format_position(position)
            payloads = self._renderer.chunk(chunk)
            if payloads:
                frames += map(event, payloads[:-1])
                frames.append(event_with_id(payloads[-1], b",".join(marks)))
        if progress.terminal is not None:
            frames += map(event, self._renderer.terminal(progress.terminal))
        return b"".join(frames)

    def _is_ping_due(self) -> bool:
        patience = self._times.ping_seconds if self._is_started else self._times.first_event_seconds
        return self._clock.monotonic() - self._sent_at >= patience

    async def _send(self, body: bytes, send: Send) -> None:
        if not self._is_started:
            self._is_started = True
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        self._sent_at = self._clock.monotonic()
        await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _refuse(self, error: PlatformError, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_started:
            await error_response(error)(scope, receive, send)
            return
        body = event(render_error(error_body(error))) + DONE
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _code_of(sealed: SealedOutcome) -> str | None:
    _, error = sealed_summary(sealed)
    return None if error is None else error.code
