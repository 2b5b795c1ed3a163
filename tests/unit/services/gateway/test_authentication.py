"""API keys: reading the setting, telling tenants."""

import pytest

from services.gateway.authentication import Authenticator, InvalidApiKeys, parse_api_keys
from services.gateway.keyring import Keyring
from shared.contracts.api_key_codec import encode_api_key
from shared.contracts.api_keys import ApiKey, issue_key
from shared.contracts.errors import BrokerUnavailable, Forbidden, Unauthorized
from shared.messaging.compacted_topic import TopicChange
from shared.messaging.records import SourceRecord


def test_keys_are_read_and_spaces_do_not_matter() -> None:
    assert parse_api_keys(" sk-1=alpha , sk-2 = beta,") == {"sk-1": "alpha", "sk-2": "beta"}


def test_a_key_may_hold_an_equals_sign() -> None:
    assert parse_api_keys("c2s==alpha") == {"c2s=": "alpha"}


@pytest.mark.parametrize("text", ["sk-1", "=alpha", "sk-1=", "sk-1=a,sk-1=b"])
def test_a_setting_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(InvalidApiKeys, match="entry"):
        parse_api_keys(text)


def test_a_refused_setting_does_not_show_the_key() -> None:
    with pytest.raises(InvalidApiKeys) as refused:
        parse_api_keys("sk-secret")
    assert "sk-secret" not in str(refused.value)


def keyring(*keys: ApiKey, is_complete: bool = True) -> Keyring:
    ring = Keyring()
    records = tuple(
        SourceRecord(
            topic="keys", partition=0, offset=0, timestamp_ms=1, key=b"k", value=encode_api_key(key), headers=()
        )
        for key in keys
    )
    ring.observe(TopicChange(records=records, is_complete=is_complete))
    return ring


def authenticator(keys: dict[str, str], ring: Keyring | None = None) -> Authenticator:
    return Authenticator(keys, default_tenant="all", keyring=ring or keyring())


def test_without_keys_everybody_is_the_default_tenant() -> None:
    open_door = authenticator({})
    assert open_door.is_open
    assert open_door.caller_of(None).tenant == "all"
    assert open_door.caller_of("Bearer whatever").tenant == "all"


@pytest.mark.parametrize("header", ["Bearer sk-2", "bearer  sk-2 ", "BEARER sk-2"])
def test_a_key_names_its_tenant(header: str) -> None:
    assert authenticator({"sk-1": "alpha", "sk-2": "beta"}).caller_of(header).tenant == "beta"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic sk-1", "sk-1", "Bearer sk-", "Bearer sk-11", "Bearer \udcff"]
)
def test_anything_else_is_unauthorized(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        authenticator({"sk-1": "alpha"}).caller_of(header)


def test_an_issued_key_names_its_tenant_and_its_models() -> None:
    text, key = issue_key(tenant="gamma", models=("tiny",), label="", now_ms=1)
    caller = authenticator({"sk-1": "alpha"}, keyring(key)).caller_of(f"Bearer {text}")
    assert caller.tenant == "gamma"
    caller.require_model("tiny")
    with pytest.raises(Forbidden, match="`large`"):
        caller.require_model("large")


def test_revoking_the_only_key_opens_no_door() -> None:
    text, key = issue_key(tenant="gamma", models=(), label="", now_ms=1)
    closed = authenticator({}, keyring(key.revoked(2)))
    assert not closed.is_open
    for header in (None, f"Bearer {text}"):
        with pytest.raises(Unauthorized):
            closed.caller_of(header)


def test_until_the_keys_are_read_nobody_unknown_gets_in_and_nobody_is_told_their_key_is_wrong() -> None:
    waiting = authenticator({"sk-1": "alpha"}, keyring(is_complete=False))
    assert waiting.caller_of("Bearer sk-1").tenant == "alpha"
    with pytest.raises(BrokerUnavailable, match="not read yet"):
        waiting.caller_of("Bearer sk-2")
    with pytest.raises(BrokerUnavailable):
        authenticator({}, keyring(is_complete=False)).caller_of(None)
