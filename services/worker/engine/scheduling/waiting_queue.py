"""Sequences that wait for a place. Knows no blocks.

The best lane and priority come first; among those the tenant that was served least (`FairShare`); of its sequences
the earliest deadline, then arrival. Nobody overtakes the head, however small: so the head cannot starve.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from services.worker.engine.scheduling.fair_share import FairShare
from services.worker.engine.sequence import OrderKey, Sequence, SequenceState

Urgency = tuple[int, int]
"""Lane and priority, the smallest first."""


class WaitingQueue:
    """A sorted list for each tenant: queues are bounded, and a cancelled sequence is found in the middle."""

    def __init__(self, share: FairShare) -> None:
        self._share = share
        self._by_urgency: dict[Urgency, dict[str, list[Sequence]]] = {}
        self.num_outstanding_tokens = 0
        self._num_sequences = 0

    def __len__(self) -> int:
        return self._num_sequences

    def __iter__(self) -> Iterator[Sequence]:
        """In no particular order between tenants."""
        for tenants in self._by_urgency.values():
            for sequences in tenants.values():
                yield from sequences

    def add(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.WAITING
        tenants = self._by_urgency.setdefault(_urgency(sequence), {})
        insort(tenants.setdefault(sequence.tenant, []), sequence, key=_order)
        self._num_sequences += 1
        self.num_outstanding_tokens += sequence.num_outstanding_tokens

    def head(self) -> Sequence | None:
        if not self._by_urgency:
            return None
        tenants = self._by_urgency[min(self._by_urgency)]
        firsts = (sequences[0] for sequences in tenants.values())
        return min(firsts, key=lambda first: (self._share.served_tokens(first.tenant), first.order_key))

    def remove(self, sequence: Sequence) -> None:
        tenants = self._by_urgency[_urgency(sequence)]
        sequences = tenants[sequence.tenant]
        index = bisect_left(sequences, _order(sequence), key=_order)
        assert sequences[index] is sequence, "a waiting sequence is not where its order says"
        del sequences[index]
        if not sequences:
            del tenants[sequence.tenant]
        if not tenants:
            del self._by_urgency[_urgency(sequence)]
        self._num_sequences -= 1
        self.num_outstanding_tokens -= sequence.num_outstanding_tokens


def _urgency(sequence: Sequence) -> Urgency:
    return sequence.request.order[:2]


def _order(sequence: Sequence) -> OrderKey:
    return sequence.order_key
