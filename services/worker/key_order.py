"""Records that want their key's order: one of a key at a time, the others wait where they are. Knows no ledger.

A record's turn comes when the one before it, of the same topic, partition and key, is done, and that is when its
request is finished (`handing_on.py` makes no exception). Whoever holds the partition after a crash gets the same
records in the same order, and finds the first of them held by whoever runs it: so the order outlives any worker.
Other keys, and records that want no order, pass by.
"""

from collections import deque
from collections.abc import Callable

from services.worker.work import RecordDelivery
from shared.contracts.headers import ORDERED
from shared.messaging.records import SourceRecord
from shared.openai.envelope import ordered_key

_Place = tuple[str, int, bytes]


class KeyOrder:
    """`deliver` is called with each record when its turn has come."""

    def __init__(self, deliver: Callable[[RecordDelivery], None], *, holds_copies: Callable[[str], bool]) -> None:
        self._deliver = deliver
        self._holds_copies = holds_copies
        self._lines: dict[_Place, deque[_Turn]] = {}

    def arrived(self, delivery: RecordDelivery) -> None:
        record = delivery.record
        wants_order = any(name.lower() == ORDERED for name, _ in record.headers)  # of most records all there is to do
        key = ordered_key(record) if wants_order and not self._holds_copies(record.topic) else None
        if key is None:
            self._deliver(delivery)
            return
        place = (record.topic, record.partition, key)
        line = self._lines.setdefault(place, deque())
        turn = _Turn(delivery, lambda: self._next(place))
        line.append(turn)
        if len(line) == 1:
            self._deliver(turn)
        else:
            delivery.wait_turn(True)

    def _next(self, place: _Place) -> None:
        line = self._lines[place]
        line.popleft()
        if not line:
            del self._lines[place]
            return
        line[0].delivery.wait_turn(False)
        self._deliver(line[0])


class _Turn:
    """A delivery at the head of its line, or behind it; done once, and only at the head."""

    def __init__(self, delivery: RecordDelivery, on_done: Callable[[], None]) -> None:
        self.delivery = delivery
        self._on_done = on_done
        self._is_done = False

    @property
    def record(self) -> SourceRecord:
        return self.delivery.record

    def done(self) -> None:
        if not self._is_done:
            self._is_done = True
            self.delivery.done()
            self._on_done()

    def wait_turn(self, is_waiting: bool) -> None:
        raise AssertionError("a turn waits in its line, nowhere else")
