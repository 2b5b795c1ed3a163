"""Heartbeats carry what the fleet routes and judges by."""

from typing import ClassVar

from services.worker.engine.events import EngineReady
from services.worker.heartbeat import HeartbeatWriter, WorkerIdentity, WorkerLoad
from shared.contracts.fleet import WorkerState
from shared.contracts.fleet_codec import decode_heartbeat, encode_heartbeat
from shared.contracts.identifiers import Incarnation, WorkerId
from tests.unit.services.worker.test_frames import STATISTICS

READY = EngineReady(
    model_name="m",
    fingerprint="weights-1",
    vocabulary_size=10,
    max_model_tokens=2_048,
    block_size_tokens=16,
    num_kv_blocks=100,
    kv_cache_tokens=1_600,
    num_full_sequences=0,
    max_running_sequences=64,
    device="cpu",
    dtype="float32",
    attention_backend="reference",
    load_seconds=1.0,
)


class Source:
    assignment: ClassVar = [("bulk", 0), ("interactive", 2), ("interactive", 1), ("resume", 0)]
    last_poll_age_seconds = 0.25
    oldest_unfinished_age_seconds = 2.0


def writer(**changes: object) -> HeartbeatWriter:
    values: dict[str, object] = {
        "state": WorkerState.READY,
        "ready": READY,
        "statistics": STATISTICS,
        "num_running": 3,
        "num_waiting": 1,
        "open_tokens": 500,
        "tokens_per_second": 12.5,
    }
    load = WorkerLoad(**(values | changes))  # type: ignore[arg-type]
    identity = WorkerIdentity(
        worker_id=WorkerId("w"),
        incarnation=Incarnation("w.1"),
        pool="default",
        models=("m",),
        announced_topics=frozenset({"interactive", "resume"}),
    )
    return HeartbeatWriter(identity, Source(), lambda: load, lambda: 1_234)


def test_it_announces_the_partitions_that_others_choose_among_and_in_order() -> None:
    assert writer().next().partitions == (("interactive", 1), ("interactive", 2), ("resume", 0))


def test_it_counts_itself_and_says_when() -> None:
    beats = writer()
    assert [beats.next().sequence_number for _ in range(3)] == [1, 2, 3]
    assert beats.next().sent_at_ms == 1_234


def test_it_carries_capacity_and_fingerprint() -> None:
    heartbeat = writer().next()
    assert (heartbeat.kv_blocks_total, heartbeat.kv_blocks_free, heartbeat.kv_block_tokens) == (100, 99, 16)
    assert heartbeat.fingerprint == "weights-1"
    assert (heartbeat.last_poll_age_ms, heartbeat.oldest_unfinished_age_ms) == (250, 2_000)


def test_before_the_engine_is_ready_it_has_no_capacity() -> None:
    heartbeat = writer(state=WorkerState.STARTING, ready=None, statistics=None).next()
    assert heartbeat.state is WorkerState.STARTING
    assert (heartbeat.max_running_requests, heartbeat.kv_blocks_total, heartbeat.fingerprint) == (0, 0, "")


def test_it_survives_the_wire() -> None:
    heartbeat = writer().next()
    assert decode_heartbeat(encode_heartbeat(heartbeat)) == heartbeat


def test_outstanding_tokens_are_the_engines_own_count_once_it_has_stepped() -> None:
    assert writer().next().outstanding_tokens == STATISTICS.outstanding_tokens != 500
    assert writer(statistics=None).next().outstanding_tokens == 500


def test_queued_is_what_is_taken_and_not_in_the_batch() -> None:
    assert writer(num_waiting=2).next().queued_requests == 2 + STATISTICS.num_waiting
    assert writer(num_waiting=2, statistics=None).next().queued_requests == 2
