"""`python -m tests.chaos.soak`: a day's requests as fast as they go; does anything grow? Status 1 when it does.

SOAK_REQUESTS (86400: one a second for 24 hours), SOAK_MINUTES (20: stop asking then). Null engine, most requests by
Kafka, every tenth a stream by HTTP. Ledger keys live for a minute here instead of days, so that they reach a plateau.
Prints a table: resident memory, threads and open files of every service, and the keys of the ledger, over time.
"""

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis.asyncio as redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from tests.chaos.asks import Ask, Way
from tests.chaos.http_load import HttpLoad
from tests.chaos.kafka_load import KafkaLoad
from tests.chaos.load_mix import null_ask

_OUTSTANDING = 300
_NUM_TOKENS = 16
_ROWS = 12
_MIB = 1 << 20
GROWTH = 1.10
"""Memory may be so much higher at the end than after a third of the run, and a little more."""
_SLACK_MIB = 8.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `processes` has resident MiB, threads and open files by name."""

    num_answered: int
    seconds: float
    processes: dict[str, tuple[float, int, int]]
    ledger_keys: int


def soak_plan(directory: Path) -> StackPlan:
    return StackPlan(
        data_dir=directory,
        pools=(PoolPlan(workers=2, served_model_name="null"),),
        request_partitions=6,
        environment={
            "PENSTOCK_WORKER_NULL_STEP_MS": "1",
            "PENSTOCK_REDIS_DONE_RETENTION_SECONDS": "60",
            "PENSTOCK_REDIS_LOG_RETENTION_SECONDS": "60",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )


def family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def look_at(stack: EmbeddedStack) -> dict[str, tuple[float, int, int]]:
    """Every service by name, a worker's engine apart."""
    found = {}
    for service in stack.services:
        for process in family(service.pid or -1):
            name = service.name if process.pid == service.pid else f"{service.name} engine"
            with process.oneshot():
                found[name] = (process.memory_info().rss / _MIB, process.num_threads(), process.num_fds())
    return found


def grown(samples: Sequence[Sample]) -> list[str]:
    """What is higher at the end than it was after a third of the run, beyond the allowance."""
    if len(samples) < 4:
        return ["too few samples to say"]
    settled, last = samples[len(samples) // 3], samples[-1]
    problems = []
    for name, (memory, threads, files) in last.processes.items():
        before = settled.processes.get(name)
        if before is None:
            problems.append(f"{name} was started again")
        elif memory > before[0] * GROWTH + _SLACK_MIB or threads > before[1] + 4 or files > before[2] + 16:
            problems.append(f"{name}: {before} -> {(memory, threads, files)}")
    if last.ledger_keys > max(sample.ledger_keys for sample in samples[: len(samples) // 2]) * 1.5 + 500:
        problems.append(f"ledger keys: {settled.ledger_keys} -> {last.ledger_keys}")
    return problems


def render(samples: Sequence[Sample]) -> str:
    names = sorted(samples[-1].processes)
    lines = [
        f"| answered | seconds | {' | '.join(names)} | ledger keys |",
        f"|{'---|' * (len(names) + 3)}",
    ]
    for sample in samples:
        cells = [
            f"{memory:.0f} MiB, {threads} t, {files} f" for memory, threads, files in map(sample.processes.get, names)
        ]
        lines.append(f"| {sample.num_answered} | {sample.seconds:.0f} | {' | '.join(cells)} | {sample.ledger_keys} |")
    return "\n".join(lines)


class Soak:
    def __init__(self, stack: EmbeddedStack, *, num_requests: int, seconds: float) -> None:
        self._stack = stack
        self._num_requests = num_requests
        self._end_at = time.monotonic() + seconds
        self._rng = random.Random(1)
        self._posts = KafkaLoad(stack.addresses.kafka)
        self._http = HttpLoad(stack.http_urls, self._rng, patience_seconds=seconds)
        self._num_posted = self._num_answered = self._num_streams = 0
        self._began = time.monotonic()
        self.samples: list[Sample] = []
        self.wrong: list[str] = []

    async def run(self) -> None:
        ledger = redis.from_url(self._stack.addresses.redis)
        counting = asyncio.create_task(self._count_results())
        polling = asyncio.create_task(self._posts.poll())
        try:
            async with asyncio.TaskGroup() as streams:
                await self._ask(streams, ledger)
            while self._num_answered < self._num_posted + self._num_streams and time.monotonic() < self._end_at + 60:
                await asyncio.sleep(0.2)
            await self._look(ledger)
        finally:
            for task in (counting, polling):
                task.cancel()
            await asyncio.gather(counting, polling, return_exceptions=True)
            await self._http.close()
            await ledger.aclose()

    async def _ask(self, streams: asyncio.TaskGroup, ledger: redis.Redis) -> None:
        looks = iter(range(0, self._num_requests, max(1, self._num_requests // _ROWS)))
        next_look = next(looks)
        for number in range(self._num_requests):
            while number - self._num_answered >= _OUTSTANDING:
                await asyncio.sleep(0.005)
            if time.monotonic() > self._end_at:
                return
            if self._num_answered >= next_look:
                await self._look(ledger)
                next_look = next(looks, self._num_requests + 1)
            way = Way.STREAM if number % 10 == 0 else Way.KAFKA
            ask = null_ask(f"soak-{number}", way, f"q {number}", seed=number, num_tokens=_NUM_TOKENS)
            if way is Way.STREAM:
                self._num_streams += 1
                streams.create_task(self._stream(ask))
            else:
                ask.lane = "bulk"
                self._num_posted += 1
                self._posts.post(ask)

    async def _stream(self, ask: Ask) -> None:
        await self._http.stream(ask)
        if ask.said != ask.wanted.answers:
            self.wrong.append(f"{ask.name}: {ask.problems or ask.said}")

    async def _look(self, ledger: redis.Redis) -> None:
        processes = await asyncio.to_thread(look_at, self._stack)
        seconds = time.monotonic() - self._began
        self.samples.append(Sample(self._num_answered, seconds, processes, await ledger.dbsize()))

    async def _count_results(self) -> None:
        """Results as they come; reading them again and again would be the load."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._stack.addresses.kafka,
                "group.id": "soak",
                "log_level": 0,
                "enable.auto.commit": False,
            }
        )
        partitions = consumer.list_topics("inference.results", timeout=20).topics["inference.results"].partitions
        consumer.assign([TopicPartition("inference.results", number, OFFSET_BEGINNING) for number in partitions])
        try:
            while True:
                messages = await asyncio.to_thread(consumer.consume, 500, 0.05)
                self._num_answered += sum(message.error() is None for message in messages)
        finally:
            consumer.close()


async def soak(directory: Path, *, num_requests: int, seconds: float) -> Soak:
    async with EmbeddedStack(soak_plan(directory)) as stack:
        await stack.wait_until_ready()
        run = Soak(stack, num_requests=num_requests, seconds=seconds)
        await run.run()
    return run


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="penstock-soak-"))
    num_requests = int(os.environ.get("SOAK_REQUESTS", "86400"))
    seconds = 60 * float(os.environ.get("SOAK_MINUTES", "20"))
    try:
        run = asyncio.run(soak(directory, num_requests=num_requests, seconds=seconds))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(render(run.samples))
    problems = [*grown(run.samples), *run.wrong[:10]]
    last = run.samples[-1]
    print(f"{last.num_answered} answered in {last.seconds:.0f} s; " + ("; ".join(problems) or "nothing grew"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
