"""What each tenant may ask for in a minute: requests and tokens, and the headers that say what is left.

throttled-py keeps the counts (GCRA: no burst beyond the quota at a minute's border). Limits are this gateway's own:
several gateways behind a balancer each allow their share. Knows no pools and no capacity.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from throttled import MemoryStore, RateLimiterType, RateLimitState, Throttled, per_min

from shared.contracts.errors import RateLimited


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
    limit: int
    throttled: Throttled

    @classmethod
    def of(cls, limit: int | None) -> "_Limiter | None":
        if limit is None:
            return None
        quota = per_min(limit, burst=limit)
        throttled = Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=MemoryStore())
        return cls(limit=limit, throttled=throttled)

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
        self._limiters: dict[str, tuple[_Limiter | None, _Limiter | None]] = {}

    def spend(self, tenant: str, *, tokens: int) -> dict[str, str]:
        """Count one request that asks for so many output tokens. Returns the `x-ratelimit-*` headers.

        Raises `RateLimited`; then nothing is spent of either limit.
        """
        requests_limiter, tokens_limiter = self._of(tenant)
        if tokens_limiter is not None:
            state = tokens_limiter.state()
            if state.remaining < min(tokens, tokens_limiter.limit):
                allowed, state = tokens_limiter.take(tokens)
                if not allowed:
                    raise _refusal(tenant, "tokens", tokens_limiter.limit, state)
                tokens = 0
        if requests_limiter is not None:
            allowed, state = requests_limiter.take(1)
            if not allowed:
                raise _refusal(tenant, "requests", requests_limiter.limit, state)
        if tokens_limiter is not None and tokens:
            tokens_limiter.take(tokens)
        return self.headers(tenant)

    def headers(self, tenant: str) -> dict[str, str]:
        """OpenAI's header names; none for what is not limited."""
        headers = {}
        for kind, limiter in zip(("requests", "tokens"), self._of(tenant), strict=True):
            if limiter is not None:
                state = limiter.state()
                headers[f"x-ratelimit-limit-{kind}"] = str(limiter.limit)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(state.remaining)))
                headers[f"x-ratelimit-reset-{kind}"] = f"{max(0.0, state.reset_after):.3f}s"
        return headers

    def _of(self, tenant: str) -> tuple[_Limiter | None, _Limiter | None]:
        """Tenants come from the configured keys, so there are few."""
        if tenant not in self._limiters:
            quota = self._quotas.get(tenant, self._default)
            self._limiters[tenant] = (_Limiter.of(quota.requests), _Limiter.of(quota.tokens))
        return self._limiters[tenant]


def _refusal(tenant: str, kind: str, limit: int, state: RateLimitState) -> RateLimited:
    return RateLimited(
        f"the tenant {tenant} may ask for {limit} {kind} a minute", retry_after_seconds=max(0.001, state.retry_after)
    )
