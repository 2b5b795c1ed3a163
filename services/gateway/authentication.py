"""Who asks: an API key names a tenant. Knows nothing of HTTP beyond the Authorization header's text."""

import hashlib
import hmac

from shared.contracts.errors import Unauthorized


class InvalidApiKeys(ValueError):
    """The setting API_KEYS cannot be read."""


def parse_api_keys(text: str | None) -> dict[str, str]:
    """Read `key=tenant,key=tenant`; raise `InvalidApiKeys` rather than start with a key nobody meant."""
    keys: dict[str, str] = {}
    for number, entry in enumerate((text or "").split(","), start=1):
        if not entry.strip():
            continue
        key, separator, tenant = (part.strip() for part in entry.rpartition("="))
        if not (key and separator and tenant):
            raise InvalidApiKeys(f"entry {number} of API_KEYS is not key=tenant")
        if key in keys:
            raise InvalidApiKeys(f"entry {number} of API_KEYS repeats a key")
        keys[key] = tenant
    return keys


class Authenticator:
    """Tells tenants by their keys, in a time that does not depend on how much of a key is right."""

    def __init__(self, keys: dict[str, str], *, default_tenant: str) -> None:
        self._digests = [(_digest(key), tenant) for key, tenant in keys.items()]
        self._default_tenant = default_tenant

    @property
    def is_open(self) -> bool:
        """No key is configured: everybody is the default tenant and sees every request."""
        return not self._digests

    def tenant_of(self, authorization: str | None) -> str:
        """The tenant of an `Authorization: Bearer KEY` header. Raises `Unauthorized`."""
        if self.is_open:
            return self._default_tenant
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("no API key given: send it as `Authorization: Bearer KEY`")
        presented = _digest(key.strip())
        found: str | None = None
        for digest, tenant in self._digests:
            if hmac.compare_digest(digest, presented):
                found = tenant
        if found is None:
            raise Unauthorized("the API key is not known here")
        return found


def _digest(key: str) -> bytes:
    """Equal lengths for the constant-time comparison, and no plain key kept in memory longer than needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
