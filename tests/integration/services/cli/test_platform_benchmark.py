"""`penstock bench platform`, shortened: every figure is there, made from answered requests."""

import json

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.benchmarks import platform
from services.cli.benchmarks.platform import GOALS

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(240)]


@pytest.fixture
def short_load(monkeypatch: pytest.MonkeyPatch) -> None:
    full = platform.PlatformLoad

    def short(**chosen: object) -> object:
        return full(
            **{
                **chosen,
                "warm_up_seconds": 1.0,
                "low_rate_seconds": 2.0,
                "low_rate_per_second": 5.0,
                "full_seconds": 1.0,
                "concurrency": 4,
                "kafka_records": 200,
                "tokens_per_stream": 32,
            }
        )

    monkeypatch.setattr(platform, "PlatformLoad", short)


def test_the_platform_benchmark_reports_every_goal_and_check_fails_when_one_is_missed(
    short_load: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GOALS, "http_tokens_per_second", 1e12)
    result = CliRunner().invoke(app, ["bench", "platform", "--json", "--check"])
    assert result.exit_code == 1
    assert "http_tokens_per_second" in result.stderr
    figures = {figure["name"]: figure for figure in json.loads(result.stdout)["figures"]}
    assert set(GOALS) <= set(figures)
    assert figures["http_tokens_per_second"]["is_missed"] is True
    assert figures["http_first_token_p50_ms"]["value"] <= figures["http_first_token_p99_ms"]["value"]
    assert all(figure["value"] > 0 for figure in figures.values())
    ratio = figures["http_first_token_p50_ms"]["value"] / figures["floor_p50_ms"]["value"]
    assert figures["http_first_token_p50_per_floor"]["value"] == pytest.approx(ratio)
    for service in ("all", "worker", "gateway", "kafka", "redis", "load"):
        assert f"cpu_ms_per_http_request.{service}" in figures
