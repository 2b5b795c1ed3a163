"""What nobody could work on goes to the dead-letter topic, byte for byte; and when too much does, we stop instead.

A worker that dead-letters everything is itself the fault: a wrong release would drain the topic into the dead-letter
queue. The limit looks at the run length and at the ratio over the last records.
"""

from collections import deque
from typing import Any, Protocol

from shared.contracts import headers as names_of
from shared.contracts.errors import PlatformError
from shared.contracts.topics import TopicNames
from shared.messaging.records import Headers, SourceRecord

_REASON_LIMIT_CHARACTERS = 1_000
_OURS = {names_of.DEAD_LETTER_REASON, names_of.DEAD_LETTER_CODE, names_of.DEAD_LETTER_TIME}


class Producer(Protocol):
    async def send(self, topic: str, *, key: bytes | None, value: bytes | None, headers: Any) -> Any: ...


async def publish_dead_letter(
    producer: Producer, names: TopicNames, record: SourceRecord, *, error: PlatformError, now_ms: int
) -> None:
    """Returns once it is acknowledged; only then may the record's offset be finished."""
    await producer.send(
        names.dead_letters,
        key=record.key,
        value=record.value,
        headers=dead_letter_headers(record, error=error, now_ms=now_ms),
    )


def dead_letter_headers(record: SourceRecord, *, error: PlatformError, now_ms: int) -> Headers:
    """The original headers unchanged, then the reason, then the coordinates unless a copy brought them along."""
    original = tuple((name, value) for name, value in record.headers if name not in _OURS)
    present = {name for name, _ in original}
    coordinates = (
        (names_of.SOURCE_TOPIC, record.topic.encode()),
        (names_of.SOURCE_PARTITION, str(record.partition).encode()),
        (names_of.SOURCE_OFFSET, str(record.offset).encode()),
        (names_of.SOURCE_TIMESTAMP_MS, str(record.timestamp_ms).encode()),
    )
    reason = error.message[:_REASON_LIMIT_CHARACTERS]
    return (
        *original,
        (names_of.DEAD_LETTER_REASON, reason.encode("utf-8", "replace")),
        (names_of.DEAD_LETTER_CODE, error.code.encode()),
        (names_of.DEAD_LETTER_TIME, str(now_ms).encode()),
        *((name, value) for name, value in coordinates if name not in present),
    )


class DeadLetterStorm(Exception):
    """Too many dead letters: the worker stops and alarms. Not a PlatformError: no request ends with it."""


class DeadLetterLimit:
    """Told of every record's end; raises when `max_run` in a row or more than `max_ratio` of a window were dead."""

    def __init__(self, *, max_run: int = 50, max_ratio: float = 0.5, window: int = 200) -> None:
        self._max_run = max_run
        self._max_dead = int(max_ratio * window)
        self._recent: deque[bool] = deque(maxlen=window)
        self._dead_in_window = 0
        self._run = 0

    def succeeded(self) -> None:
        self._run = 0
        self._remember(is_dead=False)

    def dead_lettered(self) -> None:
        self._run += 1
        self._remember(is_dead=True)
        if self._run >= self._max_run:
            raise DeadLetterStorm(f"{self._run} records in a row were dead-lettered")
        if len(self._recent) == self._recent.maxlen and self._dead_in_window > self._max_dead:
            raise DeadLetterStorm(f"{self._dead_in_window} of the last {len(self._recent)} records were dead-lettered")

    def _remember(self, *, is_dead: bool) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._dead_in_window -= self._recent[0]
        self._recent.append(is_dead)
        self._dead_in_window += is_dead
