"""API keys as protobuf bytes and back. Knows the wire only."""

from shared.contracts.api_keys import ApiKey
from shared.contracts.errors import PoisonMessage
from shared.contracts.generated.access.v1 import access_pb2
from shared.contracts.protobuf_wire import encoded, optional, parsed

_DIGEST_BYTES = 32


def encode_api_key(key: ApiKey) -> bytes:
    return encoded(
        access_pb2.ApiKey(
            key_id=key.key_id,
            digest=key.digest,
            tenant=key.tenant,
            models=key.models,
            label=key.label,
            created_at_ms=key.created_at_ms,
            revoked_at_ms=key.revoked_at_ms,
            requests_per_minute=key.requests_per_minute,
            tokens_per_minute=key.tokens_per_minute,
        )
    )


def decode_api_key(value: bytes | None) -> ApiKey:
    """Raises `PoisonMessage` for a record that could let nobody in, or anybody."""
    message = parsed(access_pb2.ApiKey(), value)
    if not (message.key_id and message.tenant):
        raise PoisonMessage("an ApiKey needs key_id and tenant")
    if len(message.digest) != _DIGEST_BYTES:
        raise PoisonMessage(f"the digest of an ApiKey has {_DIGEST_BYTES} bytes, not {len(message.digest)}")
    return ApiKey(
        key_id=message.key_id,
        digest=message.digest,
        tenant=message.tenant,
        models=tuple(message.models),
        label=message.label,
        created_at_ms=message.created_at_ms,
        revoked_at_ms=optional(message, "revoked_at_ms"),
        requests_per_minute=_limit(message, "requests_per_minute"),
        tokens_per_minute=_limit(message, "tokens_per_minute"),
    )


def _limit(message: access_pb2.ApiKey, name: str) -> int | None:
    limit: int | None = optional(message, name)
    if limit == 0:
        raise PoisonMessage(f"{name} of an ApiKey is 0: revoke it instead")
    return limit
