"""Who is restarted, in which order, and when the next one may go."""

from pathlib import Path
from typing import Any

import pytest

from services.cli.commands import rolling_restart as command
from services.cli.console import CommandFailed
from services.cli.local_services import LocalService
from services.cli.stack_state import StackState
from shared.settings.kafka import KafkaSettings


def a_worker(name: str, life: int, *, state: str = "ready", pool: str = "p", partitions: int = 2) -> dict[str, Any]:
    return {
        "worker_id": name,
        "incarnation": f"{name}.{life}",
        "state": state,
        "pool": pool,
        "partitions": list(range(partitions)),
    }


class Fleet:
    """Answers for the supervisor. Who is drained is gone, and comes back after `looks_away` looks."""

    def __init__(self, *workers: dict[str, Any], looks_away: int = 2, does_return: bool = True) -> None:
        self.workers = {worker["worker_id"]: worker for worker in workers}
        self.drained: list[str] = []
        self.looks: list[list[str]] = []
        self._looks_away = looks_away
        self._does_return = does_return
        self._away: dict[str, int] = {}

    def fetch(self, url: str) -> dict[str, Any]:
        for name in list(self._away):
            self._away[name] -= 1
            if self._away[name] <= 0 and self._does_return:
                del self._away[name]
                life = int(self.workers[name]["incarnation"].rsplit(".", 1)[1]) + 1
                self.workers[name] = a_worker(name, life, pool=self.workers[name]["pool"])
        ready = [name for name, worker in self.workers.items() if worker["state"] == "ready"]
        self.looks.append(ready)
        return {"workers": list(self.workers.values())}

    async def drain(self, settings: KafkaSettings, name: str, reason: str) -> None:
        self.drained.append(name)
        self.workers[name] = {**self.workers[name], "state": "stopped"}
        self._away[name] = self._looks_away


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(fleet: Fleet) -> Fleet:
        monkeypatch.setattr(command, "fetch_fleet", fleet.fetch)
        monkeypatch.setattr("services.cli.commands.drain.fetch_fleet", fleet.fetch)
        monkeypatch.setattr(command, "send_drain", fleet.drain)
        monkeypatch.setattr(command, "_POLL_SECONDS", 0.0)
        return fleet

    return use


def restart(fleet: Fleet, pool: str | None = None, *, patience_seconds: float = 5.0) -> int:
    return command.restart_workers("u", KafkaSettings(), pool, patience_seconds)


def test_one_worker_after_another_and_never_two_away(install: Any) -> None:
    fleet = install(Fleet(a_worker("a", 1), a_worker("b", 1), a_worker("c", 1)))
    assert restart(fleet) == 3
    assert fleet.drained == ["a", "b", "c"]
    assert min(map(len, fleet.looks)) == 2


def test_only_workers_of_the_pool_that_was_named_are_touched(install: Any) -> None:
    fleet = install(Fleet(a_worker("a", 1), a_worker("b", 1, pool="other"), a_worker("c", 1)))
    restart(fleet, "p")
    assert fleet.drained == ["a", "c"]


def test_a_worker_that_is_not_ready_is_left_alone(install: Any) -> None:
    fleet = install(Fleet(a_worker("a", 1), a_worker("b", 1, state="lost")))
    restart(fleet)
    assert fleet.drained == ["a"]


def test_without_a_replacement_the_others_stay(install: Any) -> None:
    fleet = install(Fleet(a_worker("a", 1), a_worker("b", 1), does_return=False))
    with pytest.raises(CommandFailed, match="the other workers were left alone"):
        restart(fleet, patience_seconds=0.05)
    assert fleet.drained == ["a"]


def test_an_empty_fleet_is_told_of(install: Any) -> None:
    with pytest.raises(CommandFailed, match="no worker is ready"):
        restart(install(Fleet()))


def test_the_only_worker_of_a_pool_is_restarted_with_a_warning(
    install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    restart(install(Fleet(a_worker("a", 1))))
    assert "a is the only one of its pool" in capsys.readouterr().out


@pytest.mark.parametrize(
    "ready",
    [
        [a_worker("a", 1), a_worker("b", 1)],
        [a_worker("a", 1), a_worker("b", 2, partitions=0)],
        [a_worker("b", 2)],
    ],
    ids=["nobody is new", "the new one holds no partition yet", "one is missing"],
)
def test_a_pool_is_not_whole_again(install: Any, ready: list[dict[str, Any]]) -> None:
    install(Fleet(*ready))
    with pytest.raises(CommandFailed):
        command.wait_until_whole("u", "p", {"a.1", "b.1"}, size=2, patience_seconds=0.02)


def test_more_workers_than_partitions_cannot_all_hold_one(install: Any) -> None:
    install(Fleet(a_worker("a", 1, partitions=1), a_worker("b", 2, partitions=0)))
    command.wait_until_whole("u", "p", {"a.1", "b.1"}, size=2, patience_seconds=0.02)


def test_gateways_come_before_supervisors_and_each_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    restarted: list[str] = []
    monkeypatch.setattr(command, "local_services", lambda pid, kind: [LocalService(kind, port, 1) for port in (80, 81)])

    def remember(pid: int, service: LocalService, *, patience_seconds: float) -> float:
        restarted.append(service.name)
        return 0.5

    monkeypatch.setattr(command, "restart", remember)
    state = StackState(pid=1, http_url="", supervisor_url="", kafka="", redis="", span_database=str(tmp_path), pool="p")
    assert command.restart_services(state, 1.0) == 4
    assert restarted == ["gateway at port 80", "gateway at port 81", "supervisor at port 80", "supervisor at port 81"]
