"""API keys: reading the setting, telling tenants."""

import pytest

from services.gateway.authentication import Authenticator, InvalidApiKeys, parse_api_keys
from shared.contracts.errors import Unauthorized


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


def test_without_keys_everybody_is_the_default_tenant() -> None:
    authenticator = Authenticator({}, default_tenant="all")
    assert authenticator.is_open
    assert authenticator.tenant_of(None) == "all"
    assert authenticator.tenant_of("Bearer whatever") == "all"


@pytest.mark.parametrize("header", ["Bearer sk-2", "bearer  sk-2 ", "BEARER sk-2"])
def test_a_key_names_its_tenant(header: str) -> None:
    authenticator = Authenticator({"sk-1": "alpha", "sk-2": "beta"}, default_tenant="all")
    assert authenticator.tenant_of(header) == "beta"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic sk-1", "sk-1", "Bearer sk-", "Bearer sk-11", "Bearer \udcff"]
)
def test_anything_else_is_unauthorized(header: str | None) -> None:
    authenticator = Authenticator({"sk-1": "alpha"}, default_tenant="all")
    with pytest.raises(Unauthorized):
        authenticator.tenant_of(header)
