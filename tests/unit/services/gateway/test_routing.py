"""Which partition a request goes to."""

from collections import Counter

import pytest

from services.gateway.routing import PartitionRouter
from services.gateway.routing_policies import Route, RoutingPolicy
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


def chosen(router: PartitionRouter, workers: list[Heartbeat], number: int, route: Route | None = None) -> Counter[int]:
    return Counter(router.choose(workers, TOPIC, route) or 0 for _ in range(number))


@pytest.mark.parametrize("policy", RoutingPolicy)
def test_with_nothing_announced_the_key_decides(policy: RoutingPolicy) -> None:
    router = PartitionRouter(policy)
    assert router.choose([], TOPIC) is None
    assert router.choose([worker("a")], TOPIC) is None
    assert router.choose([worker("a", 1, 2)], "another topic") is None


@pytest.mark.parametrize("policy", RoutingPolicy)
def test_equal_workers_share_equally_and_so_do_their_partitions(policy: RoutingPolicy) -> None:
    workers = [worker("a", 0, 1), worker("b", 2, 3)]
    counts = chosen(PartitionRouter(policy), workers, 40)
    assert counts[0] + counts[1] == 20
    assert counts == {0: 10, 1: 10, 2: 10, 3: 10}


def test_round_robin_does_not_look_at_load() -> None:
    workers = [worker("busy", 0, running_requests=60, queued_requests=52), worker("idle", 1)]
    assert chosen(PartitionRouter(RoutingPolicy.ROUND_ROBIN), workers, 10) == {0: 5, 1: 5}


def test_least_tokens_goes_where_the_fewest_are_owed_for_the_size_of_the_batch() -> None:
    router = PartitionRouter(RoutingPolicy.LEAST_TOKENS)
    workers = [
        worker("small", 0, max_running_requests=2, outstanding_tokens=100),
        worker("large", 1, max_running_requests=8, outstanding_tokens=300),
    ]
    assert chosen(router, workers, 3, Route(tokens=40)) == {1: 3}, "300 + 40 + 40 over 8 is less than 100 over 2"
    workers = [worker("small", 0, sequence_number=2, max_running_requests=2, outstanding_tokens=10), workers[1]]
    assert router.choose(workers, TOPIC, Route(tokens=1)) == 0


def test_weighted_goes_in_proportion_to_speed_and_evenly_spread() -> None:
    router = PartitionRouter(RoutingPolicy.WEIGHTED)
    workers = [worker("fast", 0, step_seconds=0.01), worker("slow", 1, step_seconds=0.03)]
    order = [router.choose(workers, TOPIC) for _ in range(40)]
    assert Counter(order) == {0: 30, 1: 10}
    assert all(1 in order[start : start + 4] for start in range(0, 40, 4))


def test_adaptive_avoids_a_slow_worker_until_the_fast_ones_have_a_queue_as_long() -> None:
    router = PartitionRouter(RoutingPolicy.ADAPTIVE)
    fast = {"step_seconds": 0.01, "max_running_requests": 4}
    workers = [worker("a", 0, **fast), worker("b", 1, **fast), worker("slow", 2, step_seconds=0.03)]
    assert chosen(router, workers, 8, Route(tokens=10)).keys() == {0, 1}
    assert 2 in chosen(router, workers, 30, Route(tokens=10))


def test_adaptive_counts_what_waits_in_kafka() -> None:
    router = PartitionRouter(RoutingPolicy.ADAPTIVE)
    workers = [worker("a", 0, lag_records=50), worker("b", 1)]
    assert chosen(router, workers, 8) == {1: 8}


def test_a_worker_that_has_not_told_its_speed_is_tried() -> None:
    router = PartitionRouter(RoutingPolicy.ADAPTIVE)
    workers = [worker("known", 0, step_seconds=0.02), worker("new", 1)]
    assert chosen(router, workers, 4) == {0: 2, 1: 2}


def test_a_new_heartbeat_replaces_what_was_counted_since_the_last() -> None:
    router = PartitionRouter(RoutingPolicy.ADAPTIVE)
    both = [worker("a", 0), worker("b", 1)]
    for _ in range(10):
        router.choose(both, TOPIC)
    told = [worker("a", 0, sequence_number=2, waiting_requests=1), worker("b", 1, sequence_number=2)]
    assert router.choose(told, TOPIC) == 1


def test_affinity_sends_one_prefix_to_one_worker_and_many_prefixes_to_all() -> None:
    router = PartitionRouter(RoutingPolicy.AFFINITY)
    number = 0
    places: dict[int, set[int | None]] = {prefix: set() for prefix in range(64)}
    for prefix, seen in places.items():
        for _ in range(3):
            number += 1
            workers = [worker(name, index, sequence_number=number) for index, name in enumerate("abcd")]
            seen.add(router.choose(workers, TOPIC, Route(affinity=b"%d" % prefix)))
    assert all(len(seen) == 1 for seen in places.values())
    shares = Counter(seen.pop() for seen in places.values())
    # 64 fair throws into 4 places: fewer than 4 in one of them happens once in 6,000 times; the hash is fixed.
    assert min(shares.values()) >= 4


def test_a_prefix_stays_where_it_was_when_another_worker_leaves() -> None:
    keys = [b"%d" % number for number in range(40)]

    def places(names: str) -> dict[bytes, int | None]:
        found = {}
        for key in keys:
            workers = [worker(name, "abcd".index(name)) for name in names]
            found[key] = PartitionRouter(RoutingPolicy.AFFINITY).choose(workers, TOPIC, Route(affinity=key))
        return found

    before, after = places("abcd"), places("abc")
    assert all(after[key] == place for key, place in before.items() if place != 3)


def test_affinity_leaves_a_worker_that_would_take_much_longer_than_the_best() -> None:
    router = PartitionRouter(RoutingPolicy.AFFINITY)
    workers = [worker("a", 0, max_running_requests=4), worker("b", 1, max_running_requests=4)]
    counts = chosen(router, workers, 40, Route(tokens=10, affinity=b"everybody's prompt"))
    assert min(counts.values()) >= 10
    slow = [worker("a", 0, step_seconds=0.01), worker("b", 1, step_seconds=0.03)]
    for number in range(8):
        assert PartitionRouter(RoutingPolicy.AFFINITY).choose(slow, TOPIC, Route(affinity=b"%d" % number)) == 0


def test_a_burst_of_questions_that_nobody_asked_before_is_divided_evenly() -> None:
    router = PartitionRouter(RoutingPolicy.AFFINITY)
    workers = [worker("a", 0, max_running_requests=8), worker("b", 1, max_running_requests=8)]
    counts = Counter(
        router.choose(workers, TOPIC, Route(tokens=32, affinity=b"question %d" % number)) for number in range(32)
    )
    assert abs(counts[0] - counts[1]) <= 2
    repeated = Counter(router.choose(workers, TOPIC, Route(tokens=32, affinity=b"question 0")) for _ in range(6))
    assert len(repeated) == 1, "asked again, it is worth waiting for whoever has read it"


def test_prefixes_are_forgotten_when_there_are_many() -> None:
    router = PartitionRouter(RoutingPolicy.AFFINITY)
    for number in range(5_000):
        router.choose([worker("a", 0)], TOPIC, Route(affinity=b"%d" % number))
    assert len(router._prefixes) == 4_096


def test_without_a_prefix_affinity_is_adaptive() -> None:
    router = PartitionRouter(RoutingPolicy.AFFINITY)
    workers = [worker("busy", 0, running_requests=20), worker("idle", 1)]
    assert chosen(router, workers, 4) == {1: 4}


def test_gone_workers_are_forgotten() -> None:
    router = PartitionRouter()
    for number in range(100):
        router.choose([worker(f"w{number}", 0)], TOPIC)
    assert len(router._known) <= 5
