"""Settings: strict, described, and in the README."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.gateway import settings as module
from services.gateway.settings import GatewaySettings
from shared.settings.service_settings import UnknownSetting, reject_unknown_variables

README = (Path(module.__file__).parent / "README.md").read_text()


def test_every_setting_is_described_and_in_the_readme() -> None:
    for name, field in GatewaySettings.model_fields.items():
        assert field.description, name
        assert f"`{name.upper()}`" in README, name


def test_the_environment_is_read_with_our_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_GATEWAY_PORT", "9001")
    assert GatewaySettings().port == 9001


def test_api_keys_do_not_show_in_a_printed_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_GATEWAY_API_KEYS", "sk-secret=alpha")
    assert "sk-secret" not in repr(GatewaySettings())


@pytest.mark.parametrize("values", [{"port": 70_000}, {"grace_seconds": -1}, {"body_limit_bytes": 1}, {"prot": 1}])
def test_what_cannot_be_meant_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings(**values)  # type: ignore[arg-type]


def test_a_misspelt_variable_is_refused_with_the_right_name() -> None:
    with pytest.raises(UnknownSetting, match="PENSTOCK_GATEWAY_GRACE_SECONDS"):
        reject_unknown_variables({"PENSTOCK_GATEWAY_GRACE_SECOND": "1"}, GatewaySettings)
