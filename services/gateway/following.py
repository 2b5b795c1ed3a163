"""One client's wait for one request: its reader, its place, and what its leaving means.

Made by `Followings`, which knows the gateway's channel and clocks. It sends nothing: `event_stream.py` and
`awaited_outcome.py` do.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from services.gateway.abandonment import Abandonments
from services.gateway.admission import Place
from services.gateway.ports import GatewayLedger
from services.gateway.stream_order import StreamOrder, StreamPosition
from services.gateway.stream_reader import Progress, StreamReader
from services.gateway.stream_router import StreamRouter, Subscription
from shared.contracts.errors import Blame, DeadlineExceeded, TransientError, error_classes
from shared.contracts.events import Outcome, SealedOutcome
from shared.contracts.identifiers import RequestId
from shared.ledger.records import Registration
from shared.openai.outcomes import sealed_summary
from shared.resilience.clock import Clock
from shared.telemetry.metrics import OPEN_STREAMS

_OVERDUE_MS = 30_000
"""Long after a deadline every worker and supervisor has had its chance to say `expired`."""


class GatewayStopping(TransientError):
    """The gateway ends this response, not the request."""


def stopping_note(request_id: str) -> GatewayStopping:
    return GatewayStopping(
        "this gateway is stopping; the request goes on: resume it with Last-Event-ID at "
        f"/v1/requests/{request_id}/stream or read its result at /v1/requests/{request_id}"
    )


def is_our_failure(sealed: SealedOutcome) -> bool:
    """Whether the platform is to blame: callers' mistakes, cancellations and deadlines say nothing of a pool."""
    if sealed.outcome is Outcome.DEAD_LETTERED:
        return True
    if sealed.outcome is not Outcome.FAILED:
        return False
    _, error = sealed_summary(sealed)
    kind = None if error is None else error_classes().get(error.code)
    return kind is None or kind.blame is Blame.PLATFORM


class Following:
    """Open from the moment its subscription exists; `close` it exactly where the response ends."""

    def __init__(
        self,
        subscription: Subscription,
        reader: StreamReader,
        *,
        router: StreamRouter,
        abandonments: Abandonments,
        clock: Clock,
        place: Place | None,
        deadline_ms: int | None,
    ) -> None:
        self.request_id: RequestId = subscription.request_id
        self.is_disconnected = False
        self._subscription = subscription
        self._reader = reader
        self._router = router
        self._abandonments = abandonments
        self._clock = clock
        self._place = place
        self._deadline_ms = deadline_ms
        self._has_ended = False
        abandonments.joined(self.request_id)
        OPEN_STREAMS.inc()

    @property
    def positions(self) -> list[StreamPosition]:
        return [] if self._reader.order is None else self._reader.order.positions()

    def disconnected(self) -> None:
        """The client is gone: the response stops, and the grace time begins with `close`."""
        self.is_disconnected = True
        self._subscription.wake()

    async def next(self) -> Progress:
        """What is new. Raises `GatewayStopping`, `DeadlineExceeded` or `InvariantViolated` to end the response."""
        progress = await self._reader.next()
        if progress.terminal is not None:
            self._has_ended = True
            if self._place is not None:
                self._place.answered(is_our_failure=is_our_failure(progress.terminal))
            return progress
        if self._router.is_ending:
            raise stopping_note(self.request_id)
        if self._deadline_ms is not None and self._clock.now_ms() > self._deadline_ms + _OVERDUE_MS:
            raise DeadlineExceeded("the deadline passed and nobody told the outcome")
        return progress

    def close(self) -> None:
        OPEN_STREAMS.dec()
        self._router.close(self._subscription)
        self._abandonments.left(self.request_id, has_ended=self._has_ended or self._router.is_ending)
        if self._place is not None:
            self._place.give_back()


@dataclass(frozen=True, slots=True, kw_only=True)
class Followings:
    """Makes them."""

    ledger: GatewayLedger
    channel: str
    router: StreamRouter
    abandonments: Abandonments
    clock: Clock
    silence_seconds: float

    def subscribe(self, request_id: RequestId, *, wants_chunks: bool) -> Subscription:
        return self.router.open(request_id, wants_chunks=wants_chunks)

    def follow(
        self,
        subscription: Subscription,
        *,
        num_choices: int,
        deadline_ms: int | None,
        place: Place | None = None,
        positions: Iterable[StreamPosition] = (),
        starts_from_log: bool = False,
        registration: Registration | None = None,
    ) -> Following:
        reader = StreamReader(
            subscription,
            self.ledger,
            channel=self.channel,
            order=StreamOrder(num_choices, positions) if subscription.wants_chunks else None,
            silence_seconds=self.silence_seconds,
            monotonic=self.clock.monotonic,
            starts_from_log=starts_from_log,
            registration=registration,
        )
        return Following(
            subscription,
            reader,
            router=self.router,
            abandonments=self.abandonments,
            clock=self.clock,
            place=place,
            deadline_ms=deadline_ms,
        )
