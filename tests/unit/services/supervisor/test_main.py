import pytest

from services.supervisor.__main__ import EXIT_BAD_SETTINGS, main


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("PENSTOCK_SUPERVISOR_PROT", "1", "did you mean PENSTOCK_SUPERVISOR_PORT?"),
        ("PENSTOCK_SUPERVISOR_PORT", "many", "port"),
        ("PENSTOCK_SUPERVISOR_LEADER_TTL_MS", "1", "leader_ttl_ms"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_its_name(
    variable: str,
    value: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert main() == EXIT_BAD_SETTINGS
    assert hint in capsys.readouterr().err
