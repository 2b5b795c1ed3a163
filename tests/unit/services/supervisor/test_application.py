"""The supervisor's own judgement with a scripted ledger and no Kafka; real servers are in the integration tests."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from services.supervisor.application import Supervisor, build_supervisor
from services.supervisor.fleet import MemberState
from services.supervisor.kafka_edge import Hear, KafkaEdge
from services.supervisor.settings import SupervisorSettings
from shared.contracts.errors import LedgerUnavailable
from shared.contracts.events import SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.ledger.records import Epoch, Fenced, OwnedRequest, SealAnswer
from shared.resilience.clock import ManualClock
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from tests.unit.services.supervisor.builders import heartbeat

DEAD = Incarnation("w-0.a")


class ScriptedLedger:
    def __init__(self) -> None:
        self.lost: list[Incarnation] = []
        self.leased: set[Incarnation] = set()
        self.is_away = False

    async def lost_incarnations(self) -> list[Incarnation]:
        if self.is_away:
            raise LedgerUnavailable("away")
        return self.lost

    async def epoch(self) -> Epoch | None:
        return Epoch(name="1", opened_at_ms=0, is_refilled=False)

    async def owned(self, incarnation: Incarnation) -> list[OwnedRequest]:
        return []

    async def orphan(self, request_id: RequestId, token: ClaimToken) -> bool:
        return False

    async def without_lease(self, incarnations: Sequence[Incarnation]) -> list[Incarnation]:
        return [incarnation for incarnation in incarnations if incarnation not in self.leased]

    async def seal(self, request_id: RequestId, token: ClaimToken, outcome: SealedOutcome) -> SealAnswer:
        return Fenced()

    async def finish(self, request_id: RequestId) -> bool:
        return True

    async def elect(self, name: str, *, ttl_ms: int) -> int | None:
        return 1

    async def resign(self, name: str) -> bool:
        return True


def no_kafka(hear: Hear) -> AbstractAsyncContextManager[KafkaEdge]:
    raise AssertionError("not opened in these tests")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger() -> ScriptedLedger:
    return ScriptedLedger()


@pytest.fixture
async def supervisor(clock: ManualClock, ledger: ScriptedLedger) -> Supervisor:
    building = build_supervisor(
        SupervisorSettings(name="here"),
        KafkaSettings(),
        RedisSettings(lease_ttl_ms=1_200, lease_refresh_ms=300),
        clock=clock,
        ledger=ledger,
        open_edge=no_kafka,
    )
    async with building as built:
        built.watch.hear(heartbeat())
        return built


def state(supervisor: Supervisor) -> MemberState:
    return supervisor.watch.view.members[heartbeat().worker_id].state


async def test_an_ended_lease_is_believed_at_the_next_look(supervisor: Supervisor, ledger: ScriptedLedger) -> None:
    ledger.lost = [DEAD]
    await supervisor.look()
    assert state(supervisor) is MemberState.LOST


async def test_leases_that_ended_while_the_ledger_was_away_are_not_believed_at_once(
    supervisor: Supervisor, ledger: ScriptedLedger, clock: ManualClock
) -> None:
    await supervisor.look()
    ledger.is_away = True
    clock.move(3.0)
    with pytest.raises(LedgerUnavailable):
        await supervisor.look()
    ledger.is_away, ledger.lost = False, [DEAD]
    await supervisor.look()
    assert state(supervisor) is MemberState.READY
    clock.move(0.6)
    await supervisor.look()
    assert state(supervisor) is MemberState.LOST


async def test_silence_is_judged_even_without_the_ledger(
    supervisor: Supervisor, ledger: ScriptedLedger, clock: ManualClock
) -> None:
    ledger.is_away = True
    clock.move(5.0)
    with pytest.raises(LedgerUnavailable):
        await supervisor.look()
    assert state(supervisor) is MemberState.LOST


async def test_readiness_names_the_ledger_until_it_answers_and_when_it_is_silent(
    supervisor: Supervisor, clock: ManualClock
) -> None:
    assert "the ledger has not answered lately" in supervisor.problems()
    await supervisor.look()
    assert supervisor.problems() == ["Kafka is not connected yet"]
    clock.move(3.1)
    assert "the ledger has not answered lately" in supervisor.problems()


async def test_the_only_worker_is_not_lost_while_kafka_is_silent_and_its_lease_is_held(
    supervisor: Supervisor, ledger: ScriptedLedger, clock: ManualClock
) -> None:
    """One worker's silence cannot be told from Kafka's own; its lease can."""
    ledger.leased = {heartbeat().incarnation}
    for _ in range(30):
        clock.move(1.0)
        await supervisor.look()
    assert state(supervisor) is MemberState.READY
    ledger.leased.clear()
    await supervisor.look()
    assert state(supervisor) is MemberState.LOST
