"""`python -m tests.chaos.rolling_load`: `penstock rolling-restart` while streams run, and what their readers saw.

ROLLING_STREAMS (40) run at any time, each followed by the next one at once. Status 1 when a token was lost or
repeated, a request failed, or the pauses' 99th percentile exceeds a second.
"""

import asyncio
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from services.cli.commands.up import stack_state
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from tests.chaos.asks import Ask, Way
from tests.chaos.http_load import HttpLoad
from tests.chaos.load_mix import null_ask
from tests.chaos.oracle import Verdict, judge, read_topic
from tests.chaos.report import quantile

_PATIENCE_SECONDS = 120.0
_MOST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingRun:
    """`pauses` are the longest silence of each stream that was open while the restart ran, sorted, in seconds."""

    said: str
    status: int
    asks: list[Ask]
    verdict: Verdict
    pauses: list[float]

    @property
    def num_tokens(self) -> int:
        return sum(ask.wanted.completion_tokens for ask in self.asks)


def rolling_plan(directory: Path) -> StackPlan:
    return StackPlan(
        data_dir=directory,
        pools=(PoolPlan(workers=3, served_model_name="null"),),
        gateways=2,
        supervisors=2,
        request_partitions=6,
        environment={
            "PENSTOCK_WORKER_NULL_STEP_MS": "30",
            "PENSTOCK_WORKER_DRAIN_SECONDS": "0.5",
            "PENSTOCK_GATEWAY_DRAIN_SECONDS": "2",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )


async def rolling_restart(directory: Path, *, num_streams: int) -> RollingRun:
    """The stack, its load and the command as a process of its own, as an operator would type it."""
    async with EmbeddedStack(rolling_plan(directory)) as stack:
        await stack.wait_until_ready()
        stack_state(stack).write(directory)
        http = HttpLoad(stack.http_urls, random.Random(1), patience_seconds=_PATIENCE_SECONDS)
        load = _Load(http)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(num_streams):
                    group.create_task(load.keep_asking())
                while not any(ask.arrivals for ask in load.asks):
                    await asyncio.sleep(0.05)
                began = time.monotonic()
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "services.cli", "rolling-restart", "--data-dir", str(directory)),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                )
                said, _ = await process.communicate()
                ended = time.monotonic()
                load.is_over = True
        finally:
            await http.close()
        results = await asyncio.to_thread(read_topic, stack.addresses.kafka, "inference.results")
        dead_letters = await asyncio.to_thread(read_topic, stack.addresses.kafka, "inference.dead-letters")
    return RollingRun(
        said=said.decode(),
        status=process.returncode or 0,
        asks=load.asks,
        verdict=judge(load.asks, results, dead_letters),
        pauses=longest_silences(load.asks, began, ended),
    )


class _Load:
    def __init__(self, http: HttpLoad) -> None:
        self._http = http
        self._rng = random.Random(2)
        self._numbers = itertools.count()
        self.asks: list[Ask] = []
        self.is_over = False

    async def keep_asking(self) -> None:
        while not self.is_over:
            number = next(self._numbers)
            seed, num_tokens = self._rng.randrange(1 << 60), self._rng.randrange(60, 240)
            ask = null_ask(f"rolling-{number}", Way.STREAM, f"question {number}", seed=seed, num_tokens=num_tokens)
            ask.asked_at = time.monotonic()
            self.asks.append(ask)
            await self._http.stream(ask)


def longest_silences(asks: list[Ask], began: float, ended: float) -> list[float]:
    silences = [[until - since for since, until in ask.gaps() if until > began and since < ended] for ask in asks]
    return sorted(max(found) for found in silences if found)


def print_run(run: RollingRun) -> bool:
    """Whether what was promised was kept."""
    verdict, pauses = run.verdict, run.pauses
    p50, p99, most = (quantile(pauses, share) for share in (0.5, 0.99, 1.0))
    print(run.said)
    print(
        f"{len(run.asks)} streams, {run.num_tokens} tokens, {sum(ask.num_reconnects for ask in run.asks)} reconnects; "
        f"lost {len(verdict.lost)}, duplicated tokens {verdict.num_duplicated()}, violations {verdict.num_violations}"
    )
    print(f"longest silence of a stream: p50 {p50:.2f} s, p99 {p99:.2f} s, max {most:.2f} s")
    for line in (*verdict.lost, *verdict.streams, *verdict.wrong, *verdict.differing)[:20]:
        print(f"  {line}")
    return run.status == 0 and not verdict.num_violations and p99 <= _MOST_PAUSE_SECONDS


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="penstock-rolling-"))
    try:
        run = asyncio.run(rolling_restart(directory, num_streams=int(os.environ.get("ROLLING_STREAMS", "40"))))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if print_run(run) else 1


if __name__ == "__main__":
    sys.exit(main())
