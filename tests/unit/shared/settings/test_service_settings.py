"""Settings are read strictly: a misspelt variable is an error that names the right one."""

import pytest
from pydantic import Field, ValidationError

from shared.settings.kafka import KafkaSettings
from shared.settings.service_settings import (
    ScopedSettings,
    UnknownSetting,
    reject_unknown_variables,
    scoped,
    variable_names,
)


class PumpSettings(ScopedSettings):
    model_config = scoped("GATEWAY")

    flow_limit: int = Field(default=3, description="Litres.")
    valve: str = Field(default="open", description="Open or shut.")


def test_a_variable_of_the_scope_sets_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_GATEWAY_FLOW_LIMIT", "7")
    assert PumpSettings().flow_limit == 7


def test_settings_never_change_once_read() -> None:
    with pytest.raises(ValidationError):
        PumpSettings().flow_limit = 9


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        PumpSettings(presure=1)  # type: ignore[call-arg]


def test_every_variable_is_named_with_its_scope() -> None:
    assert list(variable_names(PumpSettings)) == ["PENSTOCK_GATEWAY_FLOW_LIMIT", "PENSTOCK_GATEWAY_VALVE"]


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("PENSTOCK_GATEWAY_FLOW_LIMT", "PENSTOCK_GATEWAY_FLOW_LIMIT"),
        ("PENSTOCK_GATEWY_FLOW_LIMIT", "PENSTOCK_GATEWAY_FLOW_LIMIT"),
        ("PENSTOCK_FLOW_LIMIT", "PENSTOCK_GATEWAY_FLOW_LIMIT"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_right_name(misspelt: str, meant: str) -> None:
    with pytest.raises(UnknownSetting, match=rf"{misspelt}; did you mean {meant}\?"):
        reject_unknown_variables({misspelt: "7"}, PumpSettings)


def test_other_services_variables_and_foreign_ones_are_none_of_ours() -> None:
    reject_unknown_variables(
        {"PENSTOCK_WORKER_NAME": "w", "PATH": "/bin", "PENSTOCK_GATEWAY_VALVE": "shut"}, PumpSettings
    )


def test_a_shared_scope_is_checked_when_the_service_reads_it() -> None:
    with pytest.raises(UnknownSetting, match="did you mean PENSTOCK_KAFKA_BOOTSTRAP_SERVERS"):
        reject_unknown_variables({"PENSTOCK_KAFKA_BOOTSTRAP_SERVER": "h:1"}, PumpSettings, KafkaSettings)


def test_where_a_machine_keeps_what_is_compiled_for_it_is_no_services_setting() -> None:
    reject_unknown_variables({"PENSTOCK_CACHE": "/var/cache/penstock"}, PumpSettings)


def test_a_name_unlike_all_others_is_refused_without_a_guess() -> None:
    with pytest.raises(UnknownSetting) as refusal:
        reject_unknown_variables({"PENSTOCK_" + 60 * "Q": "1"}, PumpSettings)
    assert "did you mean" not in str(refusal.value)


def test_prefixes_of_topics_and_groups_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA_TOPIC_PREFIX", "team-a.")
    monkeypatch.setenv("PENSTOCK_KAFKA_GROUP_PREFIX", "a-")
    names = KafkaSettings().topic_names
    assert names.results == "team-a.inference.results"
    assert names.worker_group("default") == "a-penstock-workers-default"


def test_half_a_login_to_kafka_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="needs sasl_username and sasl_password"):
        KafkaSettings(security_protocol="SASL_SSL", sasl_username="penstock")
    with pytest.raises(ValidationError, match="ssl_certificate_file and ssl_key_file belong together"):
        KafkaSettings(security_protocol="SSL", ssl_certificate_file="ours.pem")
    with pytest.raises(ValidationError, match="security_protocol"):
        KafkaSettings(security_protocol="TLS")  # type: ignore[arg-type]


def test_a_password_does_not_show_when_settings_are_printed() -> None:
    settings = KafkaSettings(security_protocol="SASL_SSL", sasl_username="u", sasl_password="turbine")
    assert "turbine" not in f"{settings!r} {settings}"
