"""Sequences that wait for a place, smallest order first. Knows no blocks and no policy."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from services.worker.engine.sequence import Sequence, SequenceState


class WaitingQueue:
    """A sorted list: the queue is bounded, and a cancelled sequence has to be found in the middle."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self.num_outstanding_tokens = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def add(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.WAITING
        insort(self._sequences, sequence, key=_order)
        self.num_outstanding_tokens += sequence.num_outstanding_tokens

    def head(self) -> Sequence | None:
        return self._sequences[0] if self._sequences else None

    def remove(self, sequence: Sequence) -> None:
        index = bisect_left(self._sequences, _order(sequence), key=_order)
        assert self._sequences[index] is sequence, "a waiting sequence is not where its order says"
        del self._sequences[index]
        self.num_outstanding_tokens -= sequence.num_outstanding_tokens


def _order(sequence: Sequence) -> tuple[tuple[int, int, int, int], int, int]:
    return sequence.order_key
