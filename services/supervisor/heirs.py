"""Who inherits: a partition of the resume topic that a living worker reads now. Pure: heartbeats in, a number out.

A copy whose partition was the dead worker's own would wait for the group to rebalance. Wrong or no knowledge costs
time only: without a partition the key decides, as for any producer.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from services.supervisor.fleet import Member, MemberState
from shared.contracts.identifiers import Incarnation


class Heirs:
    """Spreads what it gives away: `given` counts until a worker's next heartbeat tells its load anew."""

    def __init__(self) -> None:
        self._given: Counter[tuple[Incarnation, int]] = Counter()

    def choose(
        self, members: Iterable[Member], topic: str, *, pool: str, without: Collection[Incarnation] = ()
    ) -> int | None:
        """The partition for one copy; None when no living worker of the pool is known to read any.

        `without`: incarnations whose lease has ended, whatever their last heartbeat said.
        """
        held = {
            member.heartbeat: [number for name, number in member.heartbeat.partitions if name == topic]
            for member in members
            if member.state is MemberState.READY
            and member.heartbeat.pool == pool
            and member.heartbeat.incarnation not in without
        }
        held = {heartbeat: partitions for heartbeat, partitions in held.items() if partitions}
        if not held:
            return None
        turns = {beat: (beat.incarnation, beat.sequence_number) for beat in held}
        self._given = Counter({turn: self._given[turn] for turn in turns.values()})
        heir = min(
            held,
            key=lambda beat: (
                (beat.running_requests + beat.waiting_requests + self._given[turns[beat]])
                / max(1, beat.max_running_requests),
                beat.worker_id,
            ),
        )
        self._given[turns[heir]] += 1
        partitions = held[heir]
        return partitions[self._given[turns[heir]] % len(partitions)]
