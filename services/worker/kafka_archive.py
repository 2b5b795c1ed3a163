"""What Kafka remembers of the past hour, for a Redis that remembers nothing: outcomes and cancellations.

Reads topics from an instant to their present end, without a group; knows the shape of a result, no ledger.
"""

from collections.abc import AsyncIterator

import structlog

from shared.contracts.errors import PoisonMessage, UnsupportedVersion
from shared.contracts.events import PublishedOutcome
from shared.contracts.headers import SCHEMA_VERSION
from shared.contracts.request_codec import decode_cancellation
from shared.contracts.requests import Cancellation
from shared.contracts.schema_version import require_readable
from shared.messaging.topic_reading import is_empty, read_topic
from shared.openai.published_outcome import read_published_outcome
from shared.settings.kafka import KafkaSettings

_log = structlog.get_logger(__name__)


class KafkaArchive:
    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._names = settings.topic_names

    async def outcomes(self, since_ms: int) -> AsyncIterator[PublishedOutcome]:
        async for record in read_topic(self._settings, self._names.results, since_ms=since_ms):
            published = read_published_outcome(record)
            if published is not None:
                yield published

    async def cancellations(self, since_ms: int) -> AsyncIterator[Cancellation]:
        async for record in read_topic(self._settings, self._names.cancellations, since_ms=since_ms):
            try:
                require_readable(record.header(SCHEMA_VERSION), "the cancellation")
                cancellation = decode_cancellation(record.value)
            except (PoisonMessage, UnsupportedVersion) as error:
                _log.info("cancellation_not_read", offset=record.offset, error=error.message)
            else:
                yield cancellation

    async def is_virgin(self) -> bool:
        return await is_empty(self._settings, self._names.results)
