"""A request that kills its engine is given up; those that died with it live on."""

import pytest

from tests.unit.services.worker.path_harness import PathHarness, running_path

POISON = b"poison"


def is_in_engine(harness: PathHarness, request_id: str) -> bool:
    """Submitted since the engine's last start and not done: the null engine has it."""
    return any(submit.request_id == request_id for submit in harness.engine.submitted[harness_starts(harness) :])


def harness_starts(harness: PathHarness) -> int:
    return int(getattr(harness, "num_submitted_before", 0))


async def run_with_poison(harness: PathHarness, poison_id: str, *, until_done: list[object]) -> int:
    """Every step with the poison in the engine kills it. How often it died."""
    deaths = 0
    for _ in range(3_000):
        if all(getattr(delivery, "is_done", False) for delivery in until_done):
            return deaths
        if is_in_engine(harness, poison_id) and harness.path.emitter.is_running(poison_id):  # type: ignore[arg-type]
            deaths += 1
            harness.kill_engine()
            harness.num_submitted_before = len(harness.engine.submitted)  # type: ignore[attr-defined]
            harness.restart_engine()
        await harness.turn(seconds=0.05)
    raise AssertionError("not done in time")


@pytest.mark.parametrize("max_attempts", [2, 3, 5])
async def test_the_neighbours_of_a_poisonous_request_are_answered(max_attempts: int) -> None:
    async with running_path(max_attempts=max_attempts) as harness:
        poison = harness.ask(headers=[("ce_id", POISON)], max_tokens=50)
        await harness.until(lambda: bool(harness.engine.submitted), is_stepping=False)
        poison_id = harness.engine.submitted[0].request_id
        neighbours = [
            harness.ask(headers=[("ce_id", f"n{number}".encode())], max_tokens=50, prompt=f"neighbour {number}")
            for number in range(5)
        ]
        await harness.until(lambda: len(harness.engine.submitted) == 6, is_stepping=False)
        deaths = await run_with_poison(harness, poison_id, until_done=[poison, *neighbours])
        assert deaths == max_attempts
        assert sorted(harness.outcomes()) == ["completed"] * 5 + ["failed"]
        assert len(harness.dead_letters) == 1
        assert dict(harness.dead_letters[0][0].headers)["ce_id"] == POISON


async def test_fresh_requests_run_beside_a_suspect() -> None:
    async with running_path(max_attempts=2) as harness:
        suspect = harness.ask(headers=[("ce_id", b"s")], max_tokens=400)
        await harness.until(lambda: bool(harness.engine.submitted), is_stepping=False)
        harness.kill_engine()
        harness.restart_engine()
        await harness.until(lambda: len(harness.engine.submitted) == 2)
        fresh = harness.ask(headers=[("ce_id", b"f")], max_tokens=5)
        await harness.until(lambda: fresh.is_done)
        assert not suspect.is_done
        await harness.until(lambda: suspect.is_done)
        assert harness.outcomes() == ["completed", "completed"]


async def test_suspects_run_one_after_another() -> None:
    async with running_path(max_attempts=2) as harness:
        both = [harness.ask(headers=[("ce_id", name)], max_tokens=30) for name in (b"a", b"b")]
        await harness.until(lambda: len(harness.engine.submitted) == 2, is_stepping=False)
        harness.kill_engine()
        harness.restart_engine()
        most = 0
        for _ in range(1_000):
            await harness.turn(seconds=0.05)
            most = max(most, harness.path.emitter.num_running)
            if all(delivery.is_done for delivery in both):
                break
        assert most == 1
        assert harness.outcomes() == ["completed", "completed"]


async def test_one_loss_is_no_suspicion_and_a_failover_runs_all_at_once() -> None:
    async with running_path(max_attempts=3) as harness:
        asked = [harness.ask(headers=[("ce_id", bytes([65 + number]))], max_tokens=200) for number in range(8)]
        await harness.until(lambda: len(harness.engine.submitted) == 8, is_stepping=False)
        harness.kill_engine()
        harness.restart_engine()
        await harness.until(lambda: harness.path.emitter.num_running == 8)
        await harness.until(lambda: all(delivery.is_done for delivery in asked))
