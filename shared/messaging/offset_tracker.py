"""Out-of-order completion, in-order commit, for one partition during one assignment. Pure: no Kafka, no clock.

The commit point is the first unfinished offset. The finished offsets above it travel in the commit's metadata as a
bitset, so that a restart skips them. A metadata string holds 4,096 characters, which bounds how far completion may
run ahead: `fill_ratio` says how near that is, and what does not fit is merely done again.

Source: confluentinc/parallel-consumer, "offset map" (incomplete offsets tracked, the contiguous prefix committed).
"""

import base64
import binascii
from collections import deque
from collections.abc import Iterable
from enum import Enum

METADATA_LIMIT_CHARACTERS = 4096
_VERSION = "p1:"
_BITS_PER_CHARACTER = 6
_CAPACITY_BITS = (METADATA_LIMIT_CHARACTERS - len(_VERSION)) // 4 * 4 * _BITS_PER_CHARACTER // 8 * 8


class Arrival(Enum):
    """What a record that was just read is to this partition."""

    NEW = "new"
    IN_FLIGHT = "in flight"
    FINISHED = "finished"
    REWOUND = "rewound"
    """Below what was read already: the log was truncated and Kafka began again; the tracker is of no more use."""


class OffsetTracker:
    """Offsets may have gaps (compaction, transaction markers) but arrive in ascending order."""

    def __init__(self, commit_point: int, finished: Iterable[int] = ()) -> None:
        """`commit_point` is where the group's commit stands; `finished` lie above it, from the commit's metadata."""
        self._position = commit_point
        self._unfinished: deque[int] = deque()
        """Ascending; the front is never finished, the rest may be."""
        self._in_flight: set[int] = set()
        self._finished = {offset for offset in finished if offset > commit_point}

    @property
    def commit_point(self) -> int:
        """The first offset that is not finished; never falls."""
        return self._unfinished[0] if self._unfinished else self._position

    @property
    def position(self) -> int:
        """The next offset that was not read yet."""
        return self._position

    @property
    def in_flight_count(self) -> int:
        return len(self._in_flight)

    def started(self, offset: int) -> Arrival:
        """A record was read. Only a NEW one may be handed out."""
        if offset in self._in_flight:
            return Arrival.IN_FLIGHT
        if offset < self._position:
            return Arrival.REWOUND
        self._position = offset + 1
        if offset in self._finished:
            if not self._unfinished:
                self._forget_below(self._position)
            return Arrival.FINISHED
        self._unfinished.append(offset)
        self._in_flight.add(offset)
        return Arrival.NEW

    def finished(self, offset: int) -> bool:
        """The record's work is over. False, and no effect, for one that is not in flight here."""
        if offset not in self._in_flight:
            return False
        self._in_flight.discard(offset)
        self._finished.add(offset)
        self._settle()
        return True

    def advance(self, commit_point: int, finished: Iterable[int]) -> None:
        """The group's commit stands higher than was known: below it nothing is ours to finish."""
        self._in_flight = {offset for offset in self._in_flight if offset >= commit_point}
        self._unfinished = deque(offset for offset in self._unfinished if offset >= commit_point)
        self._finished |= set(finished) - self._in_flight
        self._position = max(self._position, commit_point)
        self._settle()

    def is_finished(self, offset: int) -> bool:
        return offset < self.commit_point or offset in self._finished

    def _settle(self) -> None:
        while self._unfinished and self._unfinished[0] in self._finished:
            self._finished.discard(self._unfinished.popleft())
        self._forget_below(self.commit_point)

    def _forget_below(self, offset: int) -> None:
        """Offsets finished before they were read again, and passed by now."""
        if self._finished:
            self._finished = {finished for finished in self._finished if finished > offset - 1}

    def finished_above_commit_point(self) -> frozenset[int]:
        return frozenset(self._finished)

    @property
    def fill_ratio(self) -> float:
        """How much of the metadata is needed once all that was read is finished but the first record."""
        return (self._position - self.commit_point) / _CAPACITY_BITS

    def metadata(self) -> str:
        return encode_finished(self.commit_point, self._finished)


def encode_finished(commit_point: int, finished: Iterable[int]) -> str:
    """Bit `i` says that offset `commit_point + 1 + i` is finished. Offsets past the capacity are left out."""
    bits = [offset - commit_point - 1 for offset in finished]
    bits = [bit for bit in bits if 0 <= bit < _CAPACITY_BITS]
    if not bits:
        return ""
    bitmap = bytearray(max(bits) // 8 + 1)
    for bit in bits:
        bitmap[bit >> 3] |= 1 << (bit & 7)
    return _VERSION + base64.b64encode(bytes(bitmap)).decode("ascii")


def decode_finished(commit_point: int, metadata: str | None) -> frozenset[int]:
    """The inverse; metadata that somebody else wrote means that nothing is known to be finished."""
    if not metadata or not metadata.startswith(_VERSION):
        return frozenset()
    try:
        bitmap = base64.b64decode(metadata[len(_VERSION) :], validate=True)
    except (binascii.Error, ValueError):
        return frozenset()
    return frozenset(
        commit_point + 1 + (index << 3) + bit
        for index, byte in enumerate(bitmap)
        if byte
        for bit in range(8)
        if byte >> bit & 1
    )
