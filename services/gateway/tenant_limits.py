"""What each tenant, and each of its keys, may ask for in a minute: requests and tokens, and the headers that say what
is left.

throttled-py keeps the counts (GCRA: no burst beyond the quota at a minute's border). Limits are this gateway's own:
several gateways behind a balancer each allow their share. Knows no pools and no capacity.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from throttled import MemoryStore, RateLimiterType, RateLimitState, Throttled, per_min

from shared.contracts.api_keys import ApiKey
from shared.contracts.errors import RateLimited

_REQUESTS, _TOKENS = "requests", "tokens"


class InvalidTenantLimits(ValueError):
    """A setting about tenants cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A minute's worth; None: no limit."""

    requests: int | None = None
    tokens: int | None = None


def parse_tenant_limits(text: str | None) -> dict[str, Quota]:
    """Read `acme=600/100000,other=60/`: requests and tokens a minute, empty for no limit."""
    quotas: dict[str, Quota] = {}
    for tenant, value in _entries(text):
        requests, separator, tokens = value.partition("/")
        if not separator:
            raise InvalidTenantLimits(f"tenant {tenant}: write REQUESTS/TOKENS")
        quotas[tenant] = Quota(requests=_count(tenant, requests), tokens=_count(tenant, tokens))
    return quotas


def parse_tenant_weights(text: str | None) -> dict[str, float]:
    """Read `acme=3,other=1`."""
    weights: dict[str, float] = {}
    for tenant, value in _entries(text):
        try:
            weights[tenant] = float(value)
        except ValueError:
            raise InvalidTenantLimits(f"tenant {tenant}: {value!r} is no number") from None
        if not (math.isfinite(weights[tenant]) and weights[tenant] > 0):
            raise InvalidTenantLimits(f"tenant {tenant}: a weight is above 0")
    return weights


def _entries(text: str | None) -> list[tuple[str, str]]:
    entries = []
    for entry in filter(None, map(str.strip, (text or "").split(","))):
        tenant, separator, value = (part.strip() for part in entry.rpartition("="))
        if not (tenant and separator):
            raise InvalidTenantLimits(f"{entry!r} is not TENANT=VALUE")
        entries.append((tenant, value))
    return entries


def _count(tenant: str, text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise InvalidTenantLimits(f"tenant {tenant}: {text!r} is no count above 0")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limiter:
    whose: str
    what: str
    limit: int
    throttled: Throttled

    @classmethod
    def of(cls, whose: str, what: str, limit: int) -> "_Limiter":
        quota = per_min(limit, burst=limit)
        throttled = Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=MemoryStore())
        return cls(whose=whose, what=what, limit=limit, throttled=throttled)

    @property
    def name(self) -> tuple[str, str]:
        return self.whose, self.what

    def lacks(self, amount: int) -> bool:
        return bool(self.state().remaining < min(amount, self.limit))

    def take(self, amount: int) -> tuple[bool, RateLimitState]:
        """An amount above a whole minute's is taken for a minute's: it would never be let through otherwise."""
        result = self.throttled.limit("tenant", cost=min(amount, self.limit))
        return not result.limited, result.state

    def state(self) -> RateLimitState:
        return self.throttled.peek("tenant")


class TenantLimits:
    def __init__(self, default: Quota, quotas: Mapping[str, Quota] | None = None) -> None:
        self._default = default
        self._quotas = dict(quotas or {})
        self._of_tenants: dict[str, list[_Limiter]] = {}
        self._of_keys: dict[str, list[_Limiter]] = {}

    def spend(self, tenant: str, *, tokens: int, key: ApiKey | None = None) -> dict[str, str]:
        """Count one request that asks for so many output tokens. Returns the `x-ratelimit-*` headers.

        Raises `RateLimited`; then nothing is spent of any limit.
        """
        amounts = {_REQUESTS: 1, _TOKENS: tokens}
        limiters = self._limiters(tenant, key)
        taken = set()
        for limiter in limiters:
            if limiter.lacks(amounts[limiter.what]):
                allowed, state = limiter.take(amounts[limiter.what])
                if not allowed:
                    raise _refusal(limiter, state)
                taken.add(limiter.name)  # it has grown meanwhile
        for limiter in limiters:
            if limiter.name not in taken:
                limiter.take(amounts[limiter.what])
        return self.headers(tenant, key)

    def headers(self, tenant: str, key: ApiKey | None = None) -> dict[str, str]:
        """OpenAI's header names; none for what is not limited, and of two limits the one that is nearer."""
        headers = {}
        for what in (_REQUESTS, _TOKENS):
            states = [(limiter.state(), limiter) for limiter in self._limiters(tenant, key) if limiter.what == what]
            if states:
                state, limiter = min(states, key=lambda found: found[0].remaining)
                headers[f"x-ratelimit-limit-{what}"] = str(limiter.limit)
                headers[f"x-ratelimit-remaining-{what}"] = str(max(0, int(state.remaining)))
                headers[f"x-ratelimit-reset-{what}"] = f"{max(0.0, state.reset_after):.3f}s"
        return headers

    def _limiters(self, tenant: str, key: ApiKey | None) -> list[_Limiter]:
        """Tenants and keys were named by an operator, so there are few."""
        if tenant not in self._of_tenants:
            self._of_tenants[tenant] = _limiters_of(f"the tenant {tenant}", self._quotas.get(tenant, self._default))
        if key is None:
            return self._of_tenants[tenant]
        if key.key_id not in self._of_keys:
            quota = Quota(requests=key.requests_per_minute, tokens=key.tokens_per_minute)
            self._of_keys[key.key_id] = _limiters_of("this API key", quota)
        return [*self._of_tenants[tenant], *self._of_keys[key.key_id]]


def _limiters_of(whose: str, quota: Quota) -> list[_Limiter]:
    limits = ((_TOKENS, quota.tokens), (_REQUESTS, quota.requests))
    return [_Limiter.of(whose, what, limit) for what, limit in limits if limit is not None]


def _refusal(limiter: _Limiter, state: RateLimitState) -> RateLimited:
    return RateLimited(
        f"{limiter.whose} may ask for {limiter.limit} {limiter.what} a minute",
        retry_after_seconds=max(0.001, state.retry_after),
    )
