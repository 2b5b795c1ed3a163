"""The planted bugs are bugs, and they are planted from outside."""

from types import SimpleNamespace

import pytest

from services.worker.request_path import RequestPath
from shared.ledger import connection, scripts
from tests.chaos.planted_worker import commit_early, script_without_fence, skip_the_fence


@pytest.mark.parametrize("name", ["append", "seal"])
def test_the_fence_is_cut_out_of_the_scripts_that_write(name: str) -> None:
    assert len(script_without_fence(name).source) < len(scripts.load_script(name).source)
    assert script_without_fence(name).sha1 != scripts.load_script(name).sha1


def test_other_scripts_stay_as_they_are() -> None:
    assert script_without_fence("claim").source == scripts.load_script("claim").source


def test_skipping_the_fence_changes_what_the_ledger_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "load_script", scripts.load_script)
    skip_the_fence()
    assert connection.load_script is script_without_fence


def test_committing_early_finishes_a_record_when_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(RequestPath, "deliver", lambda path, delivery: seen.append("delivered"))
    commit_early()
    RequestPath.deliver(None, SimpleNamespace(done=lambda: seen.append("done")))  # type: ignore[arg-type]
    assert seen == ["done", "delivered"]
