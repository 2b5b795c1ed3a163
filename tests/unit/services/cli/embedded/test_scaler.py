"""The embedded stack gets the workers that the supervisor wants."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from services.cli.embedded.plan import PoolPlan
from services.cli.embedded.scaler import desired_workers, scale_to


@dataclass(frozen=True)
class Service:
    name: str


@dataclass
class Stack:
    """As far as scaling uses one."""

    workers: list[Service] = field(default_factory=list)
    started: int = 0
    surplus: Counter[str] = field(default_factory=Counter)

    def workers_of(self, pool: str) -> list[Service]:
        return [worker for worker in self.workers if worker.name.startswith(f"worker-{pool}-")]

    def start_worker(self, pool: PoolPlan) -> Service:
        service = Service(f"worker-{pool.name}-{self.started}")
        self.started += 1
        self.workers.append(service)
        return service

    async def stop_service(self, service: Service, *, grace_seconds: float) -> None:
        self.workers.remove(service)


async def scaled(stack: Stack, desired: int, pool: str = "default") -> list[str]:
    said: list[str] = []
    await scale_to(stack, PoolPlan(name=pool), desired, report=said.append)  # type: ignore[arg-type]
    return said


async def test_it_starts_what_is_missing_and_drains_the_newest_of_what_is_too_many() -> None:
    stack = Stack()
    assert len(await scaled(stack, 3)) == 3
    assert await scaled(stack, 1) == [
        "scaled down to 1: worker-default-2 drains",
        "scaled down to 1: worker-default-1 drains",
    ]
    assert [service.name for service in stack.workers] == ["worker-default-0"]
    assert await scaled(stack, 1) == []


async def test_workers_of_other_pools_are_left_alone() -> None:
    stack = Stack(workers=[Service("worker-other-0")])
    await scaled(stack, 0)
    assert stack.workers == [Service("worker-other-0")]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (httpx.Response(200, json={"desired_workers": 3}), 3),
        (httpx.Response(404, json={"error": "not scaled"}), None),
        (httpx.Response(200, text="nonsense"), None),
        (httpx.ConnectError("away"), None),
    ],
)
async def test_a_supervisor_that_does_not_answer_changes_nothing(response: Any, expected: int | None) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/scaling/default"
        if isinstance(response, Exception):
            raise response
        return response  # type: ignore[no-any-return]

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://supervisor") as client:
        assert await desired_workers(client, "default") == expected
