"""The API keys of the installation, as heard from their topic. Knows records, not HTTP.

Fails closed: until the topic was read to its end nobody knows whether keys are asked for. Once read, the keys stay
known while Kafka is away.
"""

import structlog

from shared.contracts.api_key_codec import decode_api_key
from shared.contracts.api_keys import ApiKey
from shared.contracts.errors import PoisonMessage
from shared.messaging.compacted_topic import TopicChange

logger = structlog.get_logger(__name__)


class Keyring:
    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}
        self._by_digest: dict[bytes, ApiKey] = {}
        self.is_complete = False

    @property
    def has_keys(self) -> bool:
        """Whether a key was ever issued; a revoked one counts, so that revoking the last one opens no door."""
        return bool(self._keys)

    def find(self, digest: bytes) -> ApiKey | None:
        """The key of this digest unless it is revoked."""
        key = self._by_digest.get(digest)
        return None if key is None or key.is_revoked else key

    def observe(self, change: TopicChange) -> None:
        for record in change.records:
            try:
                self._remember(decode_api_key(record.value))
            except PoisonMessage as error:
                logger.warning(
                    "API key ignored: issue a new one with `penstock key create`",
                    offset=record.offset,
                    error=error.message,
                )
        if change.is_complete and not self.is_complete:
            self.is_complete = True
            logger.info("API keys read", keys=len(self._by_digest))

    def _remember(self, key: ApiKey) -> None:
        previous = self._keys.get(key.key_id)
        if previous is not None:
            self._by_digest.pop(previous.digest, None)
        self._keys[key.key_id] = key
        self._by_digest[key.digest] = key
        if key.is_revoked and previous is not None and not previous.is_revoked:
            logger.info("API key revoked", key=key.key_id, tenant=key.tenant)
