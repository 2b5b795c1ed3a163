"""A dead letter as an operator handles it: what it says, whether it is meant, and how it is asked again. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.contracts import headers as names_of
from shared.messaging.records import Headers, SourceRecord
from shared.telemetry.printable import printable

REPLAY_OF = "penstock-replay-of"
"""On a replayed request and its result: the dead letter it was, as `partition@offset`."""
MOVED_FROM = "penstock-dead-letter-moved-from"
"""On a letter that a purge of its neighbours has moved: where it lay first."""

_NOT_REPLAYED = {
    names_of.DEAD_LETTER_REASON,
    names_of.DEAD_LETTER_CODE,
    names_of.DEAD_LETTER_TIME,
    names_of.REQUEST_ID,
    names_of.LANE,
    names_of.ATTEMPT,
    names_of.SOURCE_TOPIC,
    names_of.SOURCE_PARTITION,
    names_of.SOURCE_OFFSET,
    names_of.SOURCE_TIMESTAMP_MS,
    names_of.SOURCE_KEY,
    names_of.DEADLINE_MS,
    REPLAY_OF,
    MOVED_FROM,
}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    record: SourceRecord

    @property
    def where(self) -> str:
        return f"{self.record.partition}@{self.record.offset}"

    @property
    def first_place(self) -> str:
        """The same for a letter and its moved copy, so that asking both is asking once."""
        return self._text(MOVED_FROM) or self.where

    @property
    def reason(self) -> str:
        return self._text(names_of.DEAD_LETTER_REASON)

    @property
    def code(self) -> str:
        return self._text(names_of.DEAD_LETTER_CODE)

    @property
    def died_at_ms(self) -> int:
        text = self._text(names_of.DEAD_LETTER_TIME)
        return int(text) if text.isdecimal() else self.record.timestamp_ms

    @property
    def attempt(self) -> str:
        return self._text(names_of.ATTEMPT) or "1"

    @property
    def source_topic(self) -> str:
        return self._text(names_of.SOURCE_TOPIC)

    @property
    def source(self) -> str:
        partition, offset = self._text(names_of.SOURCE_PARTITION), self._text(names_of.SOURCE_OFFSET)
        return f"{self.source_topic}/{partition}@{offset}"

    @property
    def trace(self) -> str:
        return self._text(names_of.TRACEPARENT)

    def _text(self, name: str) -> str:
        return printable((self.record.header(name) or b"").decode("utf-8", "replace"))

    def replayed(self) -> Headers:
        """The headers under which it is asked again: as its producer wrote them, with an identity of its own.

        The old id is answered (or could not be told), so a `ce_id` gets a suffix that names this dead letter: the
        same letter replayed twice is one request. Its deadline is over and does not come along.
        """
        suffix = f"#replay-{self.first_place}".encode()
        kept = [(name, value) for name, value in self.record.headers if name.lower() not in _NOT_REPLAYED]
        renamed = [
            (name, value + suffix if name.lower() == names_of.CE_ID and value is not None else value)
            for name, value in kept
        ]
        return (*renamed, (REPLAY_OF, self.first_place.encode()))

    def moved(self) -> Headers:
        """The headers under which it is written again when its place is forgotten."""
        kept = [(name, value) for name, value in self.record.headers if name != MOVED_FROM]
        return (*kept, (MOVED_FROM, self.first_place.encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters are meant; everything that is set has to fit."""

    codes: Collection[str] = ()
    source_topic: str = ""
    containing: str = ""
    where: Collection[str] = ()
    since_ms: int = 0

    def fits(self, letter: DeadLetter) -> bool:
        return (
            (not self.codes or letter.code in self.codes)
            and (not self.source_topic or letter.source_topic == self.source_topic)
            and (self.containing.lower() in letter.reason.lower())
            and (not self.where or letter.where in self.where)
            and letter.died_at_ms >= self.since_ms
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """Kafka forgets from the beginning only: who is not meant and lies before one that is has to be written again."""

    forgotten: Sequence[DeadLetter]
    moved: Sequence[DeadLetter]
    ends: dict[tuple[str, int], int]
    """Topic and partition: everything below this offset goes."""


def purge_of(letters: Sequence[DeadLetter], selection: Selection) -> Purge:
    """`letters`: all there are."""
    forgotten = [letter for letter in letters if selection.fits(letter)]
    ends: dict[tuple[str, int], int] = {}
    for letter in forgotten:
        place = (letter.record.topic, letter.record.partition)
        ends[place] = max(ends.get(place, 0), letter.record.offset + 1)
    moved = [
        letter
        for letter in letters
        if not selection.fits(letter)
        and letter.record.offset < ends.get((letter.record.topic, letter.record.partition), 0)
    ]
    return Purge(forgotten=forgotten, moved=moved, ends=ends)
