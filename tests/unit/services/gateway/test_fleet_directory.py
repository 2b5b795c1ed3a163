"""What the gateway believes about the fleet, on a clock that stands still until told."""

import pytest

from services.gateway.fleet_directory import FleetDirectory
from shared.contracts.errors import NoWorkerReady, UnknownModel
from shared.contracts.fleet import WorkerState
from shared.contracts.identifiers import Incarnation, WorkerId
from shared.resilience.clock import ManualClock
from tests.fakes.served_gateway import heartbeat


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def directory(clock: ManualClock) -> FleetDirectory:
    return FleetDirectory(max_age_seconds=5, model_memory_seconds=60, default_pool="default", monotonic=clock.monotonic)


def test_a_model_is_found_in_the_pool_that_announces_it(directory: FleetDirectory) -> None:
    directory.observe(heartbeat(pool="gpu", models=("big",)))
    assert directory.pool_of("big") == "gpu"


def test_the_default_pool_wins_else_the_first_by_name(directory: FleetDirectory) -> None:
    for pool in ("zeta", "beta"):
        directory.observe(heartbeat(worker_id=WorkerId(pool), pool=pool))
    assert directory.pool_of("tiny") == "beta"
    directory.observe(heartbeat(worker_id=WorkerId("d")))
    assert directory.pool_of("tiny") == "default"


def test_a_model_tells_in_which_numbers_it_is_served_and_by_how_many(directory: FleetDirectory) -> None:
    for name, weights in (("a", "int8-a8"), ("b", "int4-g64"), ("c", "int4-g64")):
        directory.observe(heartbeat(worker_id=WorkerId(name), weights=weights, kv_cache="int8", dtype="bfloat16"))
    directory.observe(heartbeat(worker_id=WorkerId("d"), weights="int2", state=WorkerState.STARTING))
    (model,) = directory.models()
    assert [(kind.weights, kind.kv_cache, kind.dtype, kind.workers) for kind in model.served_as] == [
        ("int4-g64", "int8", "bfloat16", 2),
        ("int8-a8", "int8", "bfloat16", 1),
    ]


def test_a_model_tells_how_it_drafts_and_what_every_worker_of_it_can(directory: FleetDirectory) -> None:
    methods = {"a": ("none", "lookahead", "quantspec"), "b": ("none", "prompt-lookup", "lookahead"), "c": ()}
    for name, known in methods.items():
        state = WorkerState.READY if known else WorkerState.STARTING
        directory.observe(
            heartbeat(worker_id=WorkerId(name), speculation="lookahead", speculation_methods=known, state=state)
        )
    (model,) = directory.models()
    assert (model.speculation, model.speculation_methods) == ("lookahead", ("none", "lookahead"))


def test_nothing_heard_yet_is_not_an_unknown_model(directory: FleetDirectory) -> None:
    with pytest.raises(NoWorkerReady):
        directory.pool_of("tiny")


def test_a_model_nobody_announces_is_unknown(directory: FleetDirectory) -> None:
    directory.observe(heartbeat())
    with pytest.raises(UnknownModel) as unknown:
        directory.pool_of("other")
    assert unknown.value.param == "model"


def test_a_silent_worker_is_forgotten_but_its_model_is_remembered_for_a_while(
    directory: FleetDirectory, clock: ManualClock
) -> None:
    directory.observe(heartbeat())
    clock.move(5)
    assert directory.pool_of("tiny") == "default"
    clock.move(0.1)
    with pytest.raises(NoWorkerReady) as away:
        directory.pool_of("tiny")
    assert away.value.retry_after_seconds > 0
    clock.move(60)
    directory.observe(heartbeat(worker_id=WorkerId("x"), models=("other",)))
    with pytest.raises(UnknownModel):
        directory.pool_of("tiny")


@pytest.mark.parametrize("state", [WorkerState.STARTING, WorkerState.DRAINING, WorkerState.ENGINE_DOWN])
def test_a_worker_that_is_not_ready_serves_nothing(directory: FleetDirectory, state: WorkerState) -> None:
    directory.observe(heartbeat(state=state))
    assert directory.models() == []
    assert directory.ready_workers("default") == []
    with pytest.raises(NoWorkerReady):
        directory.pool_of("tiny")


def test_a_model_whose_workers_are_all_quarantined_has_nobody_to_take_a_request(directory: FleetDirectory) -> None:
    directory.observe(heartbeat(worker_id=WorkerId("a"), is_quarantined=True))
    directory.observe(heartbeat(worker_id=WorkerId("b"), is_quarantined=True))
    with pytest.raises(NoWorkerReady, match=r"`tiny` right now: all of them are quarantined$"):
        directory.pool_of("tiny")
    directory.observe(heartbeat(worker_id=WorkerId("b"), sequence_number=9))
    assert directory.pool_of("tiny") == "default"


def test_a_stopped_worker_is_gone_at_once(directory: FleetDirectory) -> None:
    directory.observe(heartbeat())
    directory.observe(heartbeat(sequence_number=2, state=WorkerState.STOPPED))
    assert directory.live_workers() == []


def test_a_gateway_that_first_hears_a_goodbye_knows_that_the_model_exists(directory: FleetDirectory) -> None:
    directory.observe(heartbeat(state=WorkerState.STOPPED))
    with pytest.raises(NoWorkerReady):
        directory.pool_of("tiny")


def test_late_heartbeats_do_not_turn_back_what_is_known(directory: FleetDirectory) -> None:
    directory.observe(heartbeat(sequence_number=5, running_requests=5))
    directory.observe(heartbeat(sequence_number=4, running_requests=4))
    directory.observe(
        heartbeat(incarnation=Incarnation("default-0.old"), sent_at_ms=1, sequence_number=99, running_requests=9)
    )
    assert [worker.running_requests for worker in directory.live_workers()] == [5]


def test_a_new_incarnation_replaces_its_predecessor(directory: FleetDirectory) -> None:
    directory.observe(heartbeat(sequence_number=50))
    directory.observe(
        heartbeat(incarnation=Incarnation("default-0.new"), sequence_number=1, sent_at_ms=1_800_000_000_000)
    )
    assert [worker.incarnation for worker in directory.live_workers()] == ["default-0.new"]


def test_models_are_listed_once_by_name_with_their_preferred_pool(directory: FleetDirectory) -> None:
    directory.observe(heartbeat(worker_id=WorkerId("a"), pool="aux", models=("tiny", "big")))
    directory.observe(heartbeat(worker_id=WorkerId("b"), max_model_tokens=7))
    assert [(model.name, model.pool) for model in directory.models()] == [("big", "aux"), ("tiny", "default")]
    assert directory.models()[1].max_model_tokens == 7


def test_the_fleet_is_heard_until_it_falls_silent(directory: FleetDirectory, clock: ManualClock) -> None:
    assert not directory.is_heard
    directory.observe(heartbeat())
    assert directory.is_heard
    clock.move(5.5)
    assert not directory.is_heard
