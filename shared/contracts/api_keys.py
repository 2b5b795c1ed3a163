"""An API key as the platform remembers it: whose it is and what it may, never the key itself. Values only.

A key is 256 random bits, so a plain SHA-256 of it is as good at rest as a slow password hash: nothing to guess.
"""

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import Self

_PREFIX = "pk"
_ID_BYTES = 4
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key of a tenant. Empty `models`: every model. Its limits come beside its tenant's; None: no limit."""

    key_id: str
    digest: bytes
    tenant: str
    models: tuple[str, ...] = ()
    label: str = ""
    created_at_ms: int = 0
    revoked_at_ms: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def is_revoked(self) -> bool:
        return self.revoked_at_ms is not None

    def revoked(self, now_ms: int) -> Self:
        """The same key, of no use any more. The first revocation's time stays."""
        return self if self.is_revoked else replace(self, revoked_at_ms=now_ms)


def digest_of(key: str) -> bytes:
    """What is kept of a key, and what comparisons are made on: 32 bytes whatever the key's length."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def issue_key(
    *,
    tenant: str,
    models: tuple[str, ...],
    label: str,
    now_ms: int,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> tuple[str, ApiKey]:
    """A new key's text, to be shown once, and what is remembered of it."""
    key_id = secrets.token_hex(_ID_BYTES)
    text = f"{_PREFIX}-{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    key = ApiKey(
        key_id=key_id,
        digest=digest_of(text),
        tenant=tenant,
        models=models,
        label=label,
        created_at_ms=now_ms,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
    )
    return text, key
