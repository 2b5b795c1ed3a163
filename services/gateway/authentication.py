"""Who asks: an API key names a tenant. Knows nothing of HTTP beyond the Authorization header's text.

Keys come from two places: the setting, for a fixed few, and the installation's keyring (`penstock key`).
"""

from dataclasses import dataclass

from services.gateway.keyring import Keyring
from shared.contracts.api_keys import ApiKey, digest_of
from shared.contracts.errors import BrokerUnavailable, Forbidden, Unauthorized


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, which models they may ask for (empty: every one), and the key they came with if it was issued."""

    tenant: str
    models: tuple[str, ...] = ()
    key: ApiKey | None = None

    def may_use(self, model: str) -> bool:
        return not self.models or model in self.models

    def require_model(self, model: str) -> None:
        """Raises `Forbidden`."""
        if not self.may_use(model):
            raise Forbidden(f"this API key may not use the model `{model}`", param="model")


class Authenticator:
    """Tells callers by their keys.

    A key is looked up by its SHA-256, so the time a look-up takes tells of the digest, which a guesser cannot steer,
    and nothing of how much of the key was right.
    """

    def __init__(self, keys: dict[str, str], *, default_tenant: str, keyring: Keyring) -> None:
        self._fixed = {
            digest: ApiKey(key_id=f"setting-{number}", digest=digest, tenant=tenant)
            for number, (digest, tenant) in enumerate((digest_of(key), tenant) for key, tenant in keys.items())
        }
        self._default_tenant = default_tenant
        self._keyring = keyring

    @property
    def is_open(self) -> bool:
        """No key was ever made: everybody is the default tenant and sees every request."""
        return self._keyring.is_complete and not self._keyring.has_keys and not self._fixed

    def caller_of(self, authorization: str | None) -> Caller:
        """Who an `Authorization: Bearer KEY` header names. Raises `Unauthorized`; `BrokerUnavailable` while the
        keys are not read yet."""
        if self.is_open:
            return Caller(tenant=self._default_tenant)
        scheme, _, text = (authorization or "").partition(" ")
        presented = digest_of(text.strip())
        key = self._fixed.get(presented) or self._keyring.find(presented)
        if key is not None and scheme.lower() == "bearer":
            return Caller(tenant=key.tenant, models=key.models, key=key)
        if not self._keyring.is_complete:
            raise BrokerUnavailable("the API keys are not read yet")
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthorized("no API key given: send it as `Authorization: Bearer KEY`")
        raise Unauthorized("the API key is not known here")
