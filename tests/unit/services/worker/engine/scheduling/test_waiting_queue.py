"""The queue's order, and what it counts."""

from services.worker.engine.scheduling.waiting_queue import WaitingQueue
from tests.engine_driver import make_sequence


def test_the_smallest_order_is_the_head_and_arrival_breaks_ties() -> None:
    queue = WaitingQueue()
    bulk = make_sequence([1], order=(1, 0, 0, 0))
    second, first = make_sequence([1]), make_sequence([1])
    second.arrival, first.arrival = 2, 1
    for sequence in (bulk, second, first):
        queue.add(sequence)
    assert list(queue) == [first, second, bulk]
    assert queue.head() is first


def test_one_is_removed_from_the_middle_with_its_tokens() -> None:
    queue = WaitingQueue()
    sequences = [make_sequence([1] * (index + 1), max_output_tokens=10) for index in range(3)]
    for index, sequence in enumerate(sequences):
        sequence.arrival = index
        queue.add(sequence)
    assert queue.num_outstanding_tokens == 36
    queue.remove(sequences[1])
    assert list(queue) == [sequences[0], sequences[2]]
    assert queue.num_outstanding_tokens == 24
    assert len(queue) == 2


def test_an_empty_queue_has_no_head() -> None:
    assert WaitingQueue().head() is None
