"""Whom a drain means, and when it is over."""

from typing import Any

import pytest

from services.cli.commands import drain as command
from services.cli.console import CommandFailed


def a_fleet(*workers: tuple[str, str, str]) -> dict[str, Any]:
    return {"workers": [{"worker_id": name, "incarnation": life, "state": state} for name, life, state in workers]}


@pytest.fixture
def fleets(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the supervisor answers, one look after another; the last answer stays."""
    answers: list[dict[str, Any]] = []

    def fetch(url: str) -> dict[str, Any]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(command, "fetch_fleet", fetch)
    monkeypatch.setattr(command, "_POLL_SECONDS", 0.0)
    return answers


def test_a_living_worker_is_known_by_its_name(fleets: list[dict[str, Any]]) -> None:
    fleets.append(a_fleet(("a", "a.1", "ready"), ("b", "b.1", "starting")))
    assert command.incarnation_of("u", "b") == "b.1"


@pytest.mark.parametrize("state", ["stopped", "lost"])
def test_a_worker_that_is_gone_cannot_be_drained_and_the_living_are_named(
    fleets: list[dict[str, Any]], state: str
) -> None:
    fleets.append(a_fleet(("a", "a.1", "ready"), ("b", "b.1", state)))
    with pytest.raises(CommandFailed) as failure:
        command.incarnation_of("u", "b")
    assert failure.value.hint == "alive are: a"


@pytest.mark.parametrize(
    "after",
    [a_fleet(("a", "a.1", "stopped")), a_fleet(("a", "a.1", "lost")), a_fleet(("a", "a.2", "ready")), a_fleet()],
    ids=["it stopped", "it was lost", "its next life began", "it is forgotten"],
)
def test_it_has_left_when_this_life_is_over(fleets: list[dict[str, Any]], after: dict[str, Any]) -> None:
    fleets += [a_fleet(("a", "a.1", "draining")), after]
    command.wait_until_left("u", "a", "a.1", patience_seconds=5.0)
    assert len(fleets) == 1, "it looked until the life was over"


def test_one_that_stays_is_told_of(fleets: list[dict[str, Any]]) -> None:
    fleets.append(a_fleet(("a", "a.1", "draining")))
    with pytest.raises(CommandFailed, match="has not left"):
        command.wait_until_left("u", "a", "a.1", patience_seconds=0.05)
