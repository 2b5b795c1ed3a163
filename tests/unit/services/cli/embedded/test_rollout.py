"""A rollout's order of things, against a supervisor's page that a test writes and workers that are only names."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.cli.commands.rollout import rollouts_of
from services.cli.console import CommandFailed
from services.cli.embedded.plan import PoolPlan
from services.cli.embedded.rollout import Rollout, roll_out
from services.cli.embedded.service_process import ServiceState

OLD, NEW = (PoolPlan(model=Path(name), served_model_name="m") for name in ("old", "new"))


@dataclass(eq=False)
class Worker:
    name: str
    plan: PoolPlan
    state: ServiceState = ServiceState.RUNNING
    restarts: int = 0
    log_file: Path = Path("its.log")

    @property
    def worker_id(self) -> str:
        return self.name.removeprefix("worker-")

    def last_log_lines(self, count: int) -> str:
        return "the checkpoint is truncated"


@dataclass(eq=False)
class Stack:
    """As far as a rollout uses one, and the page that its supervisor serves. `streams`: what workers have in hand."""

    fleet: list[Worker]
    supervisor_url: str = ""
    streams: dict[str, int] = field(default_factory=dict)
    quarantined: set[str] = field(default_factory=set)
    did: list[str] = field(default_factory=list)
    candidates: set[Worker] = field(default_factory=set)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    pools: dict[str, PoolPlan] = field(default_factory=lambda: {"default": OLD})
    surplus: Counter[str] = field(default_factory=Counter)
    newcomers_refuse: bool = False
    heartbeat: int = 0

    def workers_of(self, pool: str) -> list[Worker]:
        return list(self.fleet)

    def plan_of(self, worker: Worker) -> PoolPlan:
        return worker.plan

    def start_worker(self, pool: PoolPlan, *, is_candidate: bool = False) -> Worker:
        worker = Worker(f"worker-default-{len(self.did) + 10}", pool)
        if self.newcomers_refuse:
            worker.state = ServiceState.REFUSED
        self.fleet.append(worker)
        self.candidates.add(worker)
        self.did.append(f"start {pool.model}")
        return worker

    async def stop_service(self, worker: Worker, *, grace_seconds: float) -> int:
        self.fleet.remove(worker)
        self.candidates.discard(worker)
        self.did.append(f"stop {worker.plan.model} with {self.streams.get(worker.worker_id, 0)} streams")
        return 0

    async def order(self, worker: str, kind: str) -> None:
        self.did.append(kind)
        (self.quarantined.add if kind == "quarantine" else self.quarantined.discard)(worker)

    def page(self) -> dict[str, Any]:
        """Each look is a heartbeat later; a worker in quarantine ends a stream between two heartbeats."""
        self.heartbeat += 1
        for name in self.quarantined:
            self.streams[name] = max(0, self.streams.get(name, 0) - 1)
        return {"workers": [self._shown(worker) for worker in self.fleet]}

    def _shown(self, worker: Worker) -> dict[str, Any]:
        name = worker.worker_id
        return {
            "worker_id": name,
            "incarnation": f"{name}.1",
            "sequence_number": self.heartbeat,
            "pool": "default",
            "state": "ready" if worker.state is ServiceState.RUNNING else "starting",
            "partitions": [1],
            "is_quarantined": name in self.quarantined,
            "running_requests": self.streams.get(name, 0),
            "waiting_requests": 0,
        }


@asynccontextmanager
async def a_stack(**given: Any) -> AsyncIterator[Stack]:
    stack = Stack(fleet=[Worker("worker-default-0", OLD), Worker("worker-default-1", OLD)], **given)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            assert head.startswith(b"GET /fleet ")
            value = json.dumps(stack.page()).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(value), value))

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    stack.supervisor_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(20):
            yield stack
    finally:
        server.close()


async def rolled_out(stack: Stack, *, patience_seconds: float = 10.0) -> int:
    rollout = Rollout(pool=NEW, patience_seconds=patience_seconds)
    return await roll_out(stack, rollout, stack.order, report=lambda line: None)  # type: ignore[arg-type]


async def test_each_old_worker_has_its_successor_first_and_leaves_with_nothing_in_hand() -> None:
    async with a_stack(streams={"default-0": 2, "default-1": 1}) as stack:
        assert await rolled_out(stack) == 2
        each = ["start new", "quarantine", "stop old with 0 streams"]
        assert stack.did == [*each, *each]
        assert [worker.plan for worker in stack.fleet] == [NEW, NEW]
        assert (stack.pools["default"], stack.candidates) == (NEW, set())


async def test_an_old_worker_whose_streams_do_not_end_in_time_goes_back_to_work() -> None:
    async with a_stack(streams={"default-0": 10_000}) as stack:
        with pytest.raises(CommandFailed, match=r"default-0 still works on requests.* 0 of 2 workers were replaced"):
            await rolled_out(stack, patience_seconds=0.5)
        assert stack.did == ["start new", "quarantine", "resume"]
        assert stack.quarantined == set()
        assert stack.pools["default"] == OLD

        stack.streams.clear()
        assert await rolled_out(stack) == 2, "the same rollout again goes on"
        assert [worker.plan for worker in stack.fleet] == [NEW, NEW], "with the successor that is there already"


async def test_a_rollout_that_stopped_half_way_can_be_taken_back() -> None:
    async with a_stack(streams={"default-0": 10_000}) as stack:
        with pytest.raises(CommandFailed):
            await rolled_out(stack, patience_seconds=0.5)
        assert [worker.plan for worker in stack.fleet] == [OLD, OLD, NEW]
        back = Rollout(pool=OLD, patience_seconds=10.0)
        assert await roll_out(stack, back, stack.order, report=lambda line: None) == 1  # type: ignore[arg-type]
        assert [worker.plan for worker in stack.fleet] == [OLD, OLD]


async def test_weights_that_do_not_load_are_tried_once_and_named() -> None:
    async with a_stack(newcomers_refuse=True) as stack:
        with pytest.raises(CommandFailed, match="does not start: the checkpoint is truncated"):
            await rolled_out(stack)
        assert stack.did == ["start new", "stop new with 0 streams"]
        assert [worker.plan for worker in stack.fleet] == [OLD, OLD]


async def test_a_pool_that_has_the_weights_already_is_left_alone() -> None:
    async with a_stack() as stack:
        for worker in stack.fleet:
            worker.plan = NEW
        assert await rolled_out(stack) == 0
        assert stack.did == []


REQUEST = {
    "pool": "default",
    "model": "new",
    "quantization": "none",
    "kv_cache": None,
    "dtype": None,
    "patience_seconds": 10.0,
    "admin_key": None,
}


async def test_the_null_engine_has_no_weights_to_swap() -> None:
    async with a_stack(pools={"default": PoolPlan()}) as stack:
        with pytest.raises(CommandFailed, match="no weights"):
            await rollouts_of(stack, report=print)(REQUEST, print)  # type: ignore[arg-type]


async def test_one_rollout_at_a_time() -> None:
    async with a_stack() as stack:
        obey = rollouts_of(stack, report=lambda line: None)  # type: ignore[arg-type]
        async with stack.changing:
            first = asyncio.create_task(obey(REQUEST, lambda line: None))
            await asyncio.sleep(0)
            with pytest.raises(CommandFailed, match="under way"):
                await obey(REQUEST, lambda line: None)
            first.cancel()
            await asyncio.wait({first})
