"""The queue's order, and what it counts."""

from services.worker.engine.scheduling.fair_share import FairShare
from services.worker.engine.scheduling.waiting_queue import WaitingQueue
from services.worker.engine.sequence import Sequence
from tests.engine_driver import make_sequence


def drained(queue: WaitingQueue) -> list[Sequence]:
    sequences = []
    while (head := queue.head()) is not None:
        queue.remove(head)
        sequences.append(head)
    return sequences


def test_lane_then_priority_then_deadline_then_arrival() -> None:
    queue = WaitingQueue(FairShare())
    bulk = make_sequence([1], order=(1, -9, 0, 0))
    low, urgent = make_sequence([1], order=(0, 5, 1, 0)), make_sequence([1], order=(0, 0, 10, 0))
    second, first = make_sequence([1], order=(0, 0, 99, 0)), make_sequence([1], order=(0, 0, 99, 0))
    second.arrival, first.arrival = 2, 1
    for sequence in (bulk, low, second, first, urgent):
        queue.add(sequence)
    assert drained(queue) == [urgent, first, second, low, bulk]


def test_of_equal_urgency_the_tenant_that_got_least_is_next_whatever_the_deadlines() -> None:
    share = FairShare()
    queue = WaitingQueue(share)
    greedy = make_sequence([1], salt="greedy", order=(0, 0, 1, 0))
    modest = make_sequence([1], salt="modest", order=(0, 0, 99, 0))
    queue.add(greedy)
    queue.add(modest)
    assert queue.head() is greedy
    share.charge("greedy", 10)
    assert queue.head() is modest
    better = make_sequence([1], salt="greedy", order=(0, -1, 99, 0))
    queue.add(better)
    assert queue.head() is better


def test_one_is_removed_from_the_middle_with_its_tokens() -> None:
    queue = WaitingQueue(FairShare())
    sequences = [make_sequence([1] * (index + 1), max_output_tokens=10) for index in range(3)]
    for index, sequence in enumerate(sequences):
        sequence.arrival = index
        queue.add(sequence)
    assert queue.num_outstanding_tokens == 36
    queue.remove(sequences[1])
    assert list(queue) == [sequences[0], sequences[2]]
    assert queue.num_outstanding_tokens == 24
    assert len(queue) == 2
    assert drained(queue) == [sequences[0], sequences[2]]
    assert (len(queue), queue.num_outstanding_tokens) == (0, 0)


def test_an_empty_queue_has_no_head() -> None:
    assert WaitingQueue(FairShare()).head() is None
