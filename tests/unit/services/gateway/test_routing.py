"""Which partition a request goes to."""

from collections import Counter

from services.gateway.routing import PartitionRouter
from shared.contracts.fleet import Heartbeat
from shared.contracts.identifiers import Incarnation, WorkerId
from tests.fakes.served_gateway import heartbeat

TOPIC = "requests"


def worker(name: str, *partitions: int, **changes: object) -> Heartbeat:
    return heartbeat(
        worker_id=WorkerId(name),
        incarnation=Incarnation(f"{name}.1"),
        partitions=tuple((TOPIC, partition) for partition in partitions),
        **changes,
    )


def test_with_nothing_announced_the_key_decides() -> None:
    router = PartitionRouter()
    assert router.choose([], TOPIC) is None
    assert router.choose([worker("a")], TOPIC) is None
    assert router.choose([worker("a", 1, 2)], "another topic") is None


def test_equal_workers_share_equally_and_so_do_their_partitions() -> None:
    router = PartitionRouter()
    workers = [worker("a", 0, 1), worker("b", 2, 3)]
    assert Counter(router.choose(workers, TOPIC) for _ in range(40)) == {0: 10, 1: 10, 2: 10, 3: 10}


def test_the_least_loaded_worker_gets_the_next_ones_until_it_has_caught_up() -> None:
    router = PartitionRouter()
    workers = [worker("busy", 0, running_requests=6), worker("idle", 1)]
    assert [router.choose(workers, TOPIC) for _ in range(6)] == [1] * 6
    assert Counter(router.choose(workers, TOPIC) for _ in range(10)) == {0: 5, 1: 5}


def test_load_is_relative_to_what_a_worker_runs_at_a_time() -> None:
    router = PartitionRouter()
    workers = [worker("small", 0, max_running_requests=2), worker("large", 1, max_running_requests=8)]
    assert Counter(router.choose(workers, TOPIC) for _ in range(100)) == {0: 20, 1: 80}


def test_a_new_heartbeat_replaces_what_was_counted_since_the_last() -> None:
    router = PartitionRouter()
    both = [worker("a", 0), worker("b", 1)]
    for _ in range(10):
        router.choose(both, TOPIC)
    told = [worker("a", 0, sequence_number=2, waiting_requests=1), worker("b", 1, sequence_number=2)]
    assert router.choose(told, TOPIC) == 1


def test_waiting_requests_count_as_load() -> None:
    router = PartitionRouter()
    workers = [worker("a", 0, waiting_requests=3), worker("b", 1, running_requests=2)]
    assert router.choose(workers, TOPIC) == 1


def test_gone_workers_are_forgotten() -> None:
    router = PartitionRouter()
    for number in range(100):
        router.choose([worker(f"w{number}", 0)], TOPIC)
    assert len(router._recent) <= 5
