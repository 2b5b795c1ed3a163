"""The fleet as the supervisor sees it: a value, and functions that fold what was observed into the next one.

Pure: no clock, no Kafka, no Redis. Every function takes the view and the time and returns the next view with the
events that follow from the difference. Heartbeats may come late, twice, out of order or from a life that is over:
a view never goes backwards.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from shared.contracts.fleet import FleetEvent, FleetEventKind, Heartbeat
from shared.contracts.identifiers import Incarnation, WorkerId

_RETIRED_KEPT = 16


class MemberState(StrEnum):
    """A worker's own states, and the one that others have to tell about it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENGINE_DOWN = "engine-down"
    STOPPED = "stopped"
    LOST = "lost"


GONE = frozenset({MemberState.STOPPED, MemberState.LOST})


class Reception(StrEnum):
    """What became of a heartbeat."""

    ACCEPTED = "accepted"
    REPEATED = "repeated"
    SUPERSEDED = "superseded"
    """Of an incarnation that a later one has replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One worker. Instants are the supervisor's monotonic seconds: clocks of other machines do not matter."""

    heartbeat: Heartbeat
    state: MemberState
    joined_at: float
    heard_at: float
    changed_at: float
    reason: str = ""
    """Why it is lost."""
    retired: tuple[Incarnation, ...] = ()
    """Former incarnations, the latest last; nothing they still say counts."""

    @property
    def is_gone(self) -> bool:
        return self.state in GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    members: Mapping[WorkerId, Member] = field(default_factory=dict)

    def with_member(self, member: Member) -> "FleetView":
        return FleetView(members={**self.members, member.heartbeat.worker_id: member})

    def living(self) -> list[Member]:
        return [member for member in self.members.values() if not member.is_gone]

    def counts(self) -> dict[tuple[str, MemberState], int]:
        """Workers by pool and state."""
        found: dict[tuple[str, MemberState], int] = {}
        for member in self.members.values():
            key = (member.heartbeat.pool, member.state)
            found[key] = found.get(key, 0) + 1
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """The next view and what happened on the way to it."""

    view: FleetView
    events: tuple[FleetEvent, ...] = ()
    reception: Reception = Reception.ACCEPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A verdict of the failure detector: this incarnation is not coming back by itself."""

    worker_id: WorkerId
    incarnation: Incarnation
    reason: str


def fold_heartbeat(view: FleetView, heartbeat: Heartbeat, *, now: float, now_ms: int) -> Fold:
    known = view.members.get(heartbeat.worker_id)
    if known is None:
        return _joined(view, heartbeat, (), now, now_ms)
    if heartbeat.incarnation != known.heartbeat.incarnation:
        return _other_life(view, known, heartbeat, now, now_ms)
    if heartbeat.sequence_number <= known.heartbeat.sequence_number:
        return Fold(view=view, reception=Reception.REPEATED)
    if known.state is MemberState.STOPPED:
        return Fold(view=view, reception=Reception.REPEATED)
    return _same_life(view, known, heartbeat, now, now_ms)


def _same_life(view: FleetView, known: Member, heartbeat: Heartbeat, now: float, now_ms: int) -> Fold:
    state = MemberState(heartbeat.state)
    member = replace(
        known,
        heartbeat=heartbeat,
        state=state,
        heard_at=now,
        changed_at=known.changed_at if state is known.state else now,
        reason="",
    )
    event = _transition(known.state, member, now_ms)
    return Fold(view=view.with_member(member), events=event)


def _other_life(view: FleetView, known: Member, heartbeat: Heartbeat, now: float, now_ms: int) -> Fold:
    """The one that sent later is the living one; the other never counts again."""
    former = known.heartbeat
    if heartbeat.incarnation in known.retired:
        return Fold(view=view, reception=Reception.SUPERSEDED)
    if heartbeat.sent_at_ms < former.sent_at_ms and not known.is_gone:
        retired = (heartbeat.incarnation, *known.retired)[-_RETIRED_KEPT:]
        return Fold(view=view.with_member(replace(known, retired=retired)), reception=Reception.SUPERSEDED)
    retired = (*known.retired, former.incarnation)[-_RETIRED_KEPT:]
    fold = _joined(view, heartbeat, retired, now, now_ms)
    if known.is_gone:
        return fold
    lost = _event(FleetEventKind.WORKER_LOST, former, now_ms, f"replaced by {heartbeat.incarnation}")
    return replace(fold, events=(lost, *fold.events))


def _joined(view: FleetView, heartbeat: Heartbeat, retired: tuple[Incarnation, ...], now: float, now_ms: int) -> Fold:
    member = Member(
        heartbeat=heartbeat,
        state=MemberState(heartbeat.state),
        joined_at=now,
        heard_at=now,
        changed_at=now,
        retired=retired,
    )
    next_view = view.with_member(member)
    if member.is_gone:
        # Its last words are the first we hear: it was there before us, nobody has to know.
        return Fold(view=next_view)
    detail = f"pool {heartbeat.pool}, models {', '.join(heartbeat.models) or 'none'}, {heartbeat.device}"
    joined = _event(FleetEventKind.WORKER_JOINED, heartbeat, now_ms, detail)
    return Fold(view=next_view, events=(joined, *_transition(MemberState.STARTING, member, now_ms)))


def _transition(before: MemberState, member: Member, now_ms: int) -> tuple[FleetEvent, ...]:
    if member.state is before:
        return ()
    heartbeat = member.heartbeat
    match member.state:
        case MemberState.READY:
            detail = "heard of again" if before is MemberState.LOST else f"was {before}"
            return (_event(FleetEventKind.WORKER_READY, heartbeat, now_ms, detail),)
        case MemberState.ENGINE_DOWN:
            return (_event(FleetEventKind.ENGINE_DOWN, heartbeat, now_ms, f"was {before}"),)
        case MemberState.STOPPED:
            return (_event(FleetEventKind.WORKER_LEFT, heartbeat, now_ms, "stopped"),)
        case _:
            return ()


def fold_losses(view: FleetView, losses: Iterable[Loss], *, now: float, now_ms: int) -> Fold:
    """Mark workers lost. A verdict about a life that is over, or is lost already, changes nothing."""
    events: list[FleetEvent] = []
    for loss in losses:
        member = view.members.get(loss.worker_id)
        if member is None or member.is_gone or member.heartbeat.incarnation != loss.incarnation:
            continue
        lost = replace(member, state=MemberState.LOST, changed_at=now, reason=loss.reason)
        view = view.with_member(lost)
        events.append(_event(FleetEventKind.WORKER_LOST, member.heartbeat, now_ms, loss.reason))
    return Fold(view=view, events=tuple(events))


def forget(view: FleetView, *, now: float, after_seconds: float) -> FleetView:
    """Without the workers that have been gone for long: an operator has seen them by then."""
    kept = {
        worker_id: member
        for worker_id, member in view.members.items()
        if not member.is_gone or now - member.changed_at < after_seconds
    }
    return view if len(kept) == len(view.members) else FleetView(members=kept)


def _event(kind: FleetEventKind, heartbeat: Heartbeat, now_ms: int, detail: str) -> FleetEvent:
    return FleetEvent(
        kind=kind,
        worker_id=heartbeat.worker_id,
        incarnation=heartbeat.incarnation,
        occurred_at_ms=now_ms,
        detail=detail,
    )
