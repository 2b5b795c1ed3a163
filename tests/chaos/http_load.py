"""Streams over HTTP that are read to their end: who loses its gateway goes on at another one, from the last event id.

Knows the documented interface only: `Idempotency-Key`, `x-request-id`, `Last-Event-ID`, `Prefer: respond-async`,
DELETE, `penstock-deadline-ms`.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence

import httpx

from tests.chaos.asks import SECONDS_TO_ANOTHER_TRY, Ask, Early
from tests.chaos.openai_shapes import result_answers, take_chunk

_PAUSE_SECONDS = 0.25
_TIMES = httpx.Timeout(40.0, connect=2.0)
_EARLY_CODES = ("request_cancelled", "deadline_exceeded")


class HttpLoad:
    def __init__(
        self,
        urls: Sequence[str],
        rng: random.Random,
        *,
        patience_seconds: float,
        cancel_by_record: Callable[[str], None] = lambda request_id: None,
    ) -> None:
        self._urls = list(urls)
        self._rng = rng
        self._patience_seconds = patience_seconds
        self._cancel_by_record = cancel_by_record
        self._client = httpx.AsyncClient(timeout=_TIMES, limits=httpx.Limits(max_connections=2_000))

    async def close(self) -> None:
        await self._client.aclose()

    async def stream(self, ask: Ask) -> None:
        """Until the end, an unacceptable answer, or the end of patience (then the ask stays without an end)."""
        if ask.early is Early.DEADLINE:
            ask.deadline_at = time.time() + ask.early_after_seconds
        reading = asyncio.create_task(self._read_to_the_end(ask))
        if ask.early in (Early.DELETE, Early.RECORD, Early.LEAVE):
            await self._end_early(ask, reading)
        if not ask.has_left:
            await reading

    async def _read_to_the_end(self, ask: Ask) -> None:
        first = self._rng.randrange(len(self._urls))
        last_event_id: list[str] = []
        # A lost request's stream is kept open by pings: only our patience ends it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_seconds):
                for attempt in itertools.count():
                    if ask.ended_at is not None or ask.problems:
                        return
                    url = self._urls[(first + attempt) % len(self._urls)]
                    if attempt:
                        ask.num_reconnects += ask.request_id is not None
                        await asyncio.sleep(_PAUSE_SECONDS)
                    with contextlib.suppress(httpx.TransportError):
                        await self._read(ask, url, last_event_id)

    async def _end_early(self, ask: Ask, reading: asyncio.Task[None]) -> None:
        """After its time: cancel, or leave; leaving is not coming back."""
        while ask.request_id is None and not reading.done():
            await asyncio.sleep(0.05)
        await asyncio.wait({reading}, timeout=ask.early_after_seconds)
        if reading.done() or ask.request_id is None:
            return
        if ask.early is Early.LEAVE:
            ask.has_left = True
            ask.ended_at = time.monotonic()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        elif ask.early is Early.RECORD:
            self._cancel_by_record(ask.request_id)
        else:
            await self._delete(ask.request_id)

    async def _delete(self, request_id: str) -> None:
        for attempt in range(200):
            url = self._urls[attempt % len(self._urls)]
            with contextlib.suppress(httpx.TransportError):
                if (await self._client.delete(f"{url}/v1/requests/{request_id}")).status_code < 500:
                    return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _read(self, ask: Ask, url: str, last_event_id: list[str]) -> None:
        if ask.request_id is None:
            headers = {"Idempotency-Key": ask.name}
            if ask.deadline_at is not None:
                headers["penstock-deadline-ms"] = str(round(ask.deadline_at * 1_000))
            request = self._client.build_request(
                "POST",
                f"{url}/v1/{ask.endpoint}",
                json={**ask.body, "stream": True, "stream_options": {"include_usage": True}},
                headers=headers,
            )
        else:
            headers = {"Last-Event-ID": last_event_id[-1]} if last_event_id else {}
            request = self._client.build_request("GET", f"{url}/v1/requests/{ask.request_id}/stream", headers=headers)
        response = await self._client.send(request, stream=True)
        try:
            if response.status_code != 200:
                await self._refused(ask, request, response)
                return
            ask.request_id = response.headers["x-request-id"]
            ask.accepted_at = ask.accepted_at or time.monotonic()
            await self._read_events(ask, response, last_event_id)
        finally:
            await response.aclose()

    async def _refused(self, ask: Ask, request: httpx.Request, response: httpx.Response) -> None:
        """An early end has a status of its own before the first event; other 5xx are tried again elsewhere."""
        body = await response.aread()
        error = {"code": "", "message": ""}
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error |= json.loads(body)["error"]
        code = error["code"]
        if _is_early_end(ask, code) and "x-request-id" in response.headers:
            ask.request_id = response.headers["x-request-id"]
            ask.accepted_at = ask.accepted_at or time.monotonic()
            _end_early_by(ask, error)
        elif ask.early is Early.DEADLINE and code == "deadline_exceeded":
            ask.ended_at = time.monotonic()  # refused: nobody had told us that it was accepted
        elif response.status_code < 500 or code == "deadline_exceeded":
            ask.problems.append(f"{request.method} answered {response.status_code}: {body[:200]!r}")

    async def _read_events(self, ask: Ask, response: httpx.Response, last_event_id: list[str]) -> None:
        identifier: str | None = None
        async for line in lines_of(response.aiter_bytes()):
            if line.startswith("id: "):
                identifier = line[4:]
            elif line == "data: [DONE]":
                ask.ended_at = time.monotonic()
                return
            elif line.startswith("data: "):
                payload = json.loads(line[6:])
                if "error" in payload:
                    _take_error(ask, payload["error"])
                    return
                take_chunk(ask, payload)
                if identifier is not None:
                    last_event_id[:] = [identifier]
                    identifier = None

    async def await_result(self, ask: Ask) -> None:
        """`Prefer: respond-async`, then GET until there is a result."""
        first = self._rng.randrange(len(self._urls))
        give_up_at = time.monotonic() + self._patience_seconds
        for attempt in range(100_000):
            if ask.ended_at is not None or ask.problems or time.monotonic() > give_up_at:
                return
            with contextlib.suppress(httpx.TransportError):
                await self._ask_or_look(ask, self._urls[(first + attempt) % len(self._urls)])
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask_or_look(self, ask: Ask, url: str) -> None:
        if ask.request_id is None:
            headers = {"Idempotency-Key": ask.name, "Prefer": "respond-async"}
            response = await self._client.post(f"{url}/v1/{ask.endpoint}", json=ask.body, headers=headers)
        else:
            response = await self._client.get(f"{url}/v1/requests/{ask.request_id}")
        if response.status_code >= 500:
            return
        if response.status_code not in (200, 202):
            ask.problems.append(f"answered {response.status_code}: {response.text[:200]}")
            return
        ask.request_id = response.headers["x-request-id"]
        ask.accepted_at = ask.accepted_at or time.monotonic()
        if (state := response.json()).get("result"):
            ask.said, ask.usage = result_answers(state["result"], len(ask.said))
            ask.ended_at = time.monotonic()


async def lines_of(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Lines end at a line feed only; `aiter_lines` would end them at U+2028 too, in the middle of a model's text."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode()


def _is_early_end(ask: Ask, code: str) -> bool:
    return (ask.early is not None and code in _EARLY_CODES) or ask.may_fail_by(code)


def _take_error(ask: Ask, error: dict[str, str]) -> None:
    if _is_early_end(ask, error["code"]):
        _end_early_by(ask, error)
    elif "resume it" not in error["message"]:
        ask.problems.append(f"error event: {error}")


def _end_early_by(ask: Ask, error: dict[str, str]) -> None:
    ask.ended_early, ask.ended_at = error["code"], time.monotonic()
    ask.is_untold = "nobody told the outcome" in error["message"]
    most = SECONDS_TO_ANOTHER_TRY if ask.may_fail_by(error["code"]) else 0.5
    if ask.deadline_at is not None and time.time() < ask.deadline_at - most:
        ask.problems.append(f"expired {ask.deadline_at - time.time():.1f} s before its deadline")
