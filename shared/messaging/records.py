"""A Kafka record as the platform sees it: bytes, no decoding of values. Knows no client library beyond its shape."""

from dataclasses import dataclass
from typing import Any

Headers = tuple[tuple[str, bytes | None], ...]
"""Names may hold surrogate escapes where a producer wrote bytes that are not UTF-8; values are as they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def header(self, name: str) -> bytes | None:
        """The first header of that name."""
        for found, value in self.headers:
            if found == name:
                return value
        return None


def source_record(record: Any) -> SourceRecord:
    """From aiokafka's ConsumerRecord."""
    return SourceRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )
