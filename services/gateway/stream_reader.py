"""Follows one request to its end: live messages in order, what they lack from the ledger's log.

It decides when to look at the log (a gap, an overflow, a lost channel, a silent second) and never shows anything
twice. It does not know how chunks look to a client.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from services.gateway.ports import GatewayLedger
from services.gateway.stream_order import ContradictingLog, StreamOrder, StreamPosition
from services.gateway.stream_router import Subscription
from shared.contracts.errors import InvariantViolated, LedgerUnavailable
from shared.contracts.events import Chunk, FinishReason, Outcome, SealedOutcome
from shared.contracts.requests import WireFormat
from shared.ledger.records import Registration, StreamSnapshot
from shared.openai.called_tools import message_text
from shared.telemetry.metrics import STREAM_RECOVERIES

_SLOWEST_LOOK_SECONDS = 4.0


@dataclass(slots=True)
class Progress:
    """What is new since the last look; both empty when only time passed."""

    chunks: list[Chunk] = field(default_factory=list)
    positions: list[StreamPosition] = field(default_factory=list)
    """Where the choice of each chunk is after it."""
    terminal: SealedOutcome | None = None


class StreamReader:
    """One reader's view of one request. `next` is awaited by one task at a time."""

    def __init__(
        self,
        subscription: Subscription,
        ledger: GatewayLedger,
        *,
        channel: str,
        order: StreamOrder | None,
        silence_seconds: float,
        monotonic: Callable[[], float],
        starts_from_log: bool = False,
        registration: Registration | None = None,
    ) -> None:
        self._subscription = subscription
        self._ledger = ledger
        self._channel = channel
        self._order = order
        self._silence_seconds = silence_seconds
        self._monotonic = monotonic
        self._registration = registration
        self._looked_at = monotonic()
        self._patience_seconds = silence_seconds
        self._pending_reason: str | None = "attach" if starts_from_log else None

    @property
    def order(self) -> StreamOrder | None:
        """None for a reader that wants the outcome only."""
        return self._order

    async def next(self) -> Progress:
        """Wait for something: chunks, the terminal, or a tick that brought nothing.

        Raises `InvariantViolated` when the log contradicts what was delivered.
        """
        if self._pending_reason is None:
            await self._subscription.wait()
        progress = Progress()
        self._take_live(progress)
        if progress.chunks:
            self._patience_seconds = self._silence_seconds
        reason = self._reason_to_look()
        if progress.terminal is not None:
            await self._fill_tail(progress)
        elif reason is not None:
            await self._look(progress, reason)
        return progress

    def _take_live(self, progress: Progress) -> None:
        subscription = self._subscription
        order = self._order
        chunks = subscription.take()
        if order is not None:
            for chunk in chunks:
                is_next = order.is_next(chunk)
                if is_next:
                    progress.positions.append(order.delivered(chunk))
                    progress.chunks.append(chunk)
                elif is_next is None:
                    self._pending_reason = "gap"
        progress.terminal = subscription.terminal

    def _reason_to_look(self) -> str | None:
        subscription = self._subscription
        if subscription.has_overflowed:
            subscription.has_overflowed = False
            self._pending_reason = "overflow"
        if subscription.is_suspect:
            subscription.is_suspect = False
            self._pending_reason = "lost"
        if self._pending_reason is not None:
            return self._pending_reason
        quiet_since = max(subscription.last_heard_at, self._looked_at)
        if self._monotonic() - quiet_since >= self._patience_seconds:
            self._patience_seconds = min(2 * self._patience_seconds, _SLOWEST_LOOK_SECONDS)
            return "silence"
        return None

    async def _look(self, progress: Progress, reason: str) -> None:
        snapshot = await self._snapshot()
        if snapshot is None:
            return
        if reason != "attach":
            STREAM_RECOVERIES.labels(reason).inc()
        self._add_from_log(progress, snapshot)
        if snapshot.finished and snapshot.sealed is not None:
            progress.terminal = snapshot.sealed
            self._add_from_result(progress, snapshot.sealed)

    async def _fill_tail(self, progress: Progress) -> None:
        """The terminal is here; whatever is still missing will not come by itself."""
        assert progress.terminal is not None
        if self._order is None or self._order.is_complete or progress.terminal.outcome is not Outcome.COMPLETED:
            return
        STREAM_RECOVERIES.labels("tail").inc()
        snapshot = await self._snapshot()
        if snapshot is not None:
            self._add_from_log(progress, snapshot)
        self._add_from_result(progress, progress.terminal)

    async def _snapshot(self) -> StreamSnapshot | None:
        """The log, with our channel subscribed again should Redis have forgotten it. None: look again later."""
        self._looked_at = self._monotonic()
        self._pending_reason = None
        try:
            snapshot = await self._ledger.attach(self._subscription.request_id, channel=self._channel)
            if snapshot is None and self._registration is not None:
                # Redis lost its data, and nobody has told it of this request since: no id of ours becomes unknown.
                await self._ledger.register(self._registration, channel=self._channel)
        except LedgerUnavailable:
            return None
        return snapshot

    def _add_from_log(self, progress: Progress, snapshot: StreamSnapshot) -> None:
        if self._order is None:
            return
        try:
            missing = self._order.missing(snapshot.chunks)
        except ContradictingLog:
            raise InvariantViolated("the stream cannot go on: what is logged is not what was delivered") from None

        for chunk in missing:
            progress.chunks.append(chunk)
            progress.positions.append(self._order.position(chunk.choice))

    def _add_from_result(self, progress: Progress, sealed: SealedOutcome) -> None:
        """The log has been dropped: the result still has the text and how each choice ended."""
        order = self._order
        if order is None or order.is_complete or sealed.outcome is not Outcome.COMPLETED:
            return
        for index, text, finish_reason in _choices_of(sealed):
            if index < order.num_choices:
                if finish_reason is FinishReason.TOOL_CALLS and order.position(index).num_characters:
                    raise InvariantViolated("the stream's log is gone in the middle of a tool call; read its result")
                chunk = order.missing_text(index, text, finish_reason)
                if chunk is not None:
                    progress.chunks.append(chunk)
                    progress.positions.append(order.position(index))


def _choices_of(sealed: SealedOutcome) -> list[tuple[int, str, FinishReason]]:
    if sealed.wire_format is not WireFormat.JSON:
        return []
    return [
        (
            choice["index"],
            message_text(choice["message"]) if "message" in choice else choice["text"],
            FinishReason(choice["finish_reason"]),
        )
        for choice in msgspec.json.decode(sealed.value)["choices"]
    ]
