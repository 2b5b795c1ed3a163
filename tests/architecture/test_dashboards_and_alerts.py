"""Dashboards, rules and alerts name metrics that exist, and have their runbooks and tests."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.board import metrics_of
from deploy.grafana.dashboards import BOARDS
from shared.telemetry.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"


def rules_of(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((PROMETHEUS / name).read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


ALERTS = rules_of("alerts.yml")


def test_every_metric_on_a_board_or_in_a_rule_is_declared() -> None:
    asked = {name for board in BOARDS for panel in board.panels for name in panel.metrics}
    for rule in [*rules_of("recording.yml"), *ALERTS]:
        asked |= set(metrics_of(rule["expr"]))
    assert asked - set(CATALOGUE) == set()


def test_every_declared_metric_is_on_a_board() -> None:
    shown = {name for board in BOARDS for panel in board.panels for name in panel.metrics}
    assert set(CATALOGUE) - shown == set()


def test_no_query_hides_a_missing_series() -> None:
    expressions = [query.expression for board in BOARDS for panel in board.panels for query in panel.queries]
    expressions += [rule["expr"] for rule in [*rules_of("recording.yml"), *ALERTS]]
    assert [expression for expression in expressions if "vector(" in expression] == []


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    linked = {rule["annotations"]["runbook"] for rule in ALERTS}
    assert linked == {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "runbooks").glob("*.md")}


def test_every_alert_is_tested_quiet_and_firing() -> None:
    document = yaml.safe_load((PROMETHEUS / "tests" / "alerts_test.yml").read_text())
    for expects_alerts in (False, True):
        tested = {
            case["alertname"]
            for test in document["tests"]
            for case in test["alert_rule_test"]
            if bool(case["exp_alerts"]) is expects_alerts
        }
        assert tested == {rule["alert"] for rule in ALERTS}


def test_every_alert_says_how_urgent_it_is() -> None:
    assert {rule["labels"]["severity"] for rule in ALERTS} == {"page", "ticket"}


def test_names_of_rules_follow_prometheus_convention() -> None:
    assert all(re.fullmatch(r"[a-z_]+:[a-z_]+:[a-z0-9_]+", rule["record"]) for rule in rules_of("recording.yml"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["check", "rules", "recording.yml", "alerts.yml"],
        ["test", "rules", "tests/alerts_test.yml"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_agrees(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    told = subprocess.run([promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
