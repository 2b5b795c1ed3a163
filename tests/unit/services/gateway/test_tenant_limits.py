"""Limits per tenant and minute, and what the headers say of them."""

import pytest

from services.gateway.tenant_limits import (
    InvalidTenantLimits,
    Quota,
    TenantLimits,
    parse_tenant_limits,
    parse_tenant_weights,
)
from shared.contracts.api_keys import ApiKey, digest_of
from shared.contracts.errors import RateLimited


def test_without_limits_there_are_no_headers() -> None:
    assert TenantLimits(Quota()).spend("acme", tokens=1_000_000) == {}


def test_requests_beyond_the_minutes_quota_are_refused_with_the_time_until_the_next() -> None:
    limits = TenantLimits(Quota(requests=3))
    assert [limits.spend("acme", tokens=1)["x-ratelimit-remaining-requests"] for _ in range(3)] == ["2", "1", "0"]
    with pytest.raises(RateLimited, match="3 requests a minute") as refusal:
        limits.spend("acme", tokens=1)
    assert 19 < refusal.value.retry_after_seconds <= 20


def test_each_tenant_has_its_own() -> None:
    limits = TenantLimits(Quota(requests=1), {"large": Quota(requests=2)})
    limits.spend("acme", tokens=1)
    limits.spend("other", tokens=1)
    limits.spend("large", tokens=1)
    limits.spend("large", tokens=1)
    for tenant in ("acme", "large"):
        with pytest.raises(RateLimited):
            limits.spend(tenant, tokens=1)


def test_tokens_are_limited_too_and_shown() -> None:
    limits = TenantLimits(Quota(tokens=600))
    headers = limits.spend("acme", tokens=400)
    assert headers["x-ratelimit-limit-tokens"] == "600"
    assert headers["x-ratelimit-remaining-tokens"] == "200"
    assert headers["x-ratelimit-reset-tokens"].endswith("s")
    with pytest.raises(RateLimited, match="600 tokens a minute") as refusal:
        limits.spend("acme", tokens=300)
    assert 9 < refusal.value.retry_after_seconds <= 10


def key(key_id: str, *, requests: int | None = None, tokens: int | None = None) -> ApiKey:
    return ApiKey(
        key_id=key_id,
        digest=digest_of(key_id),
        tenant="acme",
        requests_per_minute=requests,
        tokens_per_minute=tokens,
    )


def test_a_key_has_limits_of_its_own_within_those_of_its_tenant() -> None:
    limits = TenantLimits(Quota(requests=3))
    small, other = key("small", requests=1), key("other")
    assert limits.spend("acme", tokens=1, key=small)["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(RateLimited, match="this API key may ask for 1 requests a minute") as refusal:
        limits.spend("acme", tokens=1, key=small)
    assert 59 < refusal.value.retry_after_seconds <= 60
    assert limits.spend("acme", tokens=1, key=other)["x-ratelimit-remaining-requests"] == "1"
    limits.spend("acme", tokens=1, key=other)
    with pytest.raises(RateLimited, match="the tenant acme may ask for 3 requests a minute"):
        limits.spend("acme", tokens=1, key=other)


def test_what_a_key_may_not_costs_its_tenant_nothing() -> None:
    limits = TenantLimits(Quota(requests=2, tokens=1_000))
    small = key("small", tokens=10)
    limits.spend("acme", tokens=10, key=small)
    for _ in range(5):
        with pytest.raises(RateLimited, match="this API key may ask for 10 tokens a minute"):
            limits.spend("acme", tokens=10, key=small)
    assert limits.headers("acme")["x-ratelimit-remaining-requests"] == "1"
    assert int(limits.headers("acme")["x-ratelimit-remaining-tokens"]) >= 990


def test_what_the_token_limit_refuses_costs_no_request() -> None:
    limits = TenantLimits(Quota(requests=2, tokens=100))
    limits.spend("acme", tokens=60)
    with pytest.raises(RateLimited, match="tokens"):
        limits.spend("acme", tokens=60)
    assert limits.headers("acme")["x-ratelimit-remaining-requests"] == "1"


def test_what_the_request_limit_refuses_costs_no_tokens() -> None:
    limits = TenantLimits(Quota(requests=1, tokens=100))
    limits.spend("acme", tokens=10)
    with pytest.raises(RateLimited, match="requests"):
        limits.spend("acme", tokens=10)
    assert limits.headers("acme")["x-ratelimit-remaining-tokens"] == "90"


def test_a_request_larger_than_a_whole_minute_passes_once_the_minute_is_whole() -> None:
    limits = TenantLimits(Quota(tokens=100))
    assert limits.spend("acme", tokens=5_000)["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(RateLimited):
        limits.spend("acme", tokens=5_000)


def test_the_settings_text_is_read() -> None:
    assert parse_tenant_limits(" acme=600/100000, other=60/ ,big=/9") == {
        "acme": Quota(requests=600, tokens=100_000),
        "other": Quota(requests=60),
        "big": Quota(tokens=9),
    }
    assert parse_tenant_weights("acme=3, other=0.5") == {"acme": 3.0, "other": 0.5}
    assert parse_tenant_limits(None) == parse_tenant_weights("") == {}


@pytest.mark.parametrize("text", ["acme", "acme=5", "acme=x/1", "acme=0/1", "=1/1"])
def test_limits_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidTenantLimits):
        parse_tenant_limits(text)


@pytest.mark.parametrize("text", ["acme", "acme=x", "acme=0", "acme=-1", "acme=inf", "acme=nan"])
def test_weights_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidTenantLimits):
        parse_tenant_weights(text)
