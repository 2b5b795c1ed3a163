"""`penstock topics` against a real Kafka: plan changes nothing, check complains, apply creates, check is content."""

import uuid
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from services.cli.__main__ import app

pytestmark = pytest.mark.kafka

Topics = Callable[..., Result]


@pytest.fixture
def topics(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Topics:
    monkeypatch.setenv("PENSTOCK_KAFKA_TOPIC_PREFIX", f"t{uuid.uuid4().hex[:8]}.")
    monkeypatch.setenv("PENSTOCK_KAFKA_REQUEST_PARTITIONS", "2")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["topics", *arguments, "--kafka", kafka_bootstrap])

    return run


def test_topics_are_planned_checked_and_created(topics: Topics) -> None:
    assert "missing" in topics("plan").output
    before = topics("check")
    assert before.exit_code == 1
    assert "inference.results is missing" in before.output
    created = topics("apply", "--pool", "a", "--pool", "b")
    assert created.exit_code == 0
    assert "19 topics created" in created.output
    assert topics("check", "--pool", "a", "--pool", "b").exit_code == 0
    assert topics("check", "--pool", "c").exit_code == 1


def test_applying_twice_creates_nothing_the_second_time(topics: Topics) -> None:
    topics("apply")
    assert "0 topics created" in topics("apply").output


def test_too_few_partitions_are_named_and_added(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    topics("apply")
    monkeypatch.setenv("PENSTOCK_KAFKA_REQUEST_PARTITIONS", "3")
    complaint = topics("check")
    assert complaint.exit_code == 1
    assert "has 2 partitions, 3 wanted" in complaint.output
    assert topics("apply").exit_code == 0
    assert topics("check").exit_code == 0


def test_no_cluster_is_one_sentence() -> None:
    result = CliRunner().invoke(app, ["topics", "check", "--kafka", "127.0.0.1:9"])
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.output
    assert "Traceback" not in result.output
