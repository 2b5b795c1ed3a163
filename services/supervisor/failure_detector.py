"""Decides who is lost, and whether now is a time to decide. Pure: view, leases and time in, verdicts out.

Two witnesses: the lease in the ledger, which ends 1.2 s after a worker's last sign (only workers that own requests
have one that anybody asks for), and the heartbeats on Kafka, which an idle worker sends too. Heartbeats alone need
more patience: a broker that fails over is silent for seconds without anybody being dead. Silence is therefore no
proof against who holds a lease; it is one while the ledger says nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass

from services.supervisor.fleet import FleetView, Loss, MemberState
from shared.contracts.identifiers import Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionRules:
    silent_after_seconds: float = 5.0
    """No heartbeat for so long: lost."""
    deaf_after_seconds: float = 2.5
    """No heartbeat of anybody for so long: it is us, or Kafka; nobody is lost for silence then."""

    def __post_init__(self) -> None:
        if not 0 < self.deaf_after_seconds < self.silent_after_seconds:
            raise ValueError("need 0 < deaf_after_seconds < silent_after_seconds")


def silent(view: FleetView, *, now: float, rules: DetectionRules) -> list[Incarnation]:
    """Who has been silent for too long: of these it is worth asking whether they hold a lease."""
    return [
        member.heartbeat.incarnation for member in view.living() if now - member.heard_at >= rules.silent_after_seconds
    ]


def find_losses(
    view: FleetView,
    *,
    leaseless: Collection[Incarnation],
    now: float,
    rules: DetectionRules,
    leased: Collection[Incarnation] = (),
    unleased: Collection[Incarnation] = (),
    suspected: Collection[Incarnation] = (),
) -> list[Loss]:
    """Everybody to be declared lost now.

    `leaseless`: incarnations that own requests and have no lease. `leased`: silent ones that are known to hold one;
    `unleased`: those known to hold none: when nobody is heard at all, that tells a fleet that died from a deaf ear.
    `suspected`: silent in a way that is unlike them, and known to hold none; these need not wait for the limit.
    """
    living = view.living()
    # A fleet of one cannot be told from deafness by its heartbeats; its silence has to speak for itself.
    last_heard = max((member.heard_at for member in view.members.values()), default=now)
    is_deaf = len(living) > 1 and now - last_heard >= rules.deaf_after_seconds
    losses = []
    for member in living:
        heartbeat = member.heartbeat
        silence = now - member.heard_at
        if heartbeat.incarnation in leaseless and member.state is not MemberState.STOPPED:
            reason = "its lease ended while it owned requests"
        elif silence >= rules.silent_after_seconds and not is_deaf and heartbeat.incarnation not in leased:
            reason = f"no heartbeat for {silence:.1f} s"
        elif silence >= rules.silent_after_seconds and heartbeat.incarnation in unleased:
            reason = f"no lease, and no heartbeat for {silence:.1f} s"
        elif heartbeat.incarnation in suspected and not is_deaf and heartbeat.incarnation not in leased:
            reason = f"no lease, and no heartbeat for {silence:.1f} s, which is unlike it"
        else:
            continue
        losses.append(Loss(worker_id=heartbeat.worker_id, incarnation=heartbeat.incarnation, reason=reason))
    return losses


class LeaseGrace:
    """Leases that ended while the ledger was away prove nothing: their owners could not refresh them either.

    After every gap between two successful looks at the ledger that is long enough for leases to end, and after every
    loss of Redis' data, workers get `grace_seconds` to refresh before anybody believes an ended lease.
    """

    def __init__(self, *, longest_gap_seconds: float, grace_seconds: float) -> None:
        self._longest_gap_seconds = longest_gap_seconds
        self._grace_seconds = grace_seconds
        self._looked_at: float | None = None
        self._epoch: str | None = None
        self._trusted_from = float("-inf")

    def looked(self, *, started_at: float, now: float, epoch: str | None) -> bool:
        """A look at the ledger began and came back. True when what it says of leases can be believed.

        `epoch` names Redis' present memory; None while it is being refilled.
        """
        has_forgotten = epoch is None or (self._epoch is not None and epoch != self._epoch)
        self._epoch = epoch or self._epoch
        is_gap = self._looked_at is not None and now - self._looked_at > self._longest_gap_seconds
        if is_gap or has_forgotten:
            self._trusted_from = now + self._grace_seconds
        self._looked_at = now
        return started_at >= self._trusted_from
