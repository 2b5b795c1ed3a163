"""`python -m tests.chaos.run`: the stack under load and faults, then the verdict. Status 1 when a promise was broken.

CHAOS_MINUTES (5), CHAOS_SEED (1), CHAOS_FAULTS (`;` between names; every one), CHAOS_DIRECTORY (a temporary one; kept
when the run fails).
"""

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from services.cli.embedded import service_process
from services.cli.embedded.kafka import EmbeddedKafka
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.redis import EmbeddedRedis
from services.cli.embedded.stack import EmbeddedStack
from tests.chaos.asks import Ask, Way
from tests.chaos.faults import Injection, Saboteur
from tests.chaos.http_load import HttpLoad
from tests.chaos.kafka_load import KafkaLoad, OffsetWatch
from tests.chaos.oracle import Verdict, judge, read_topic
from tests.chaos.report import render, rows, summary
from tests.chaos.schedule import EVERY_FAULT, Fault, Strike, schedule

RESULTS, DEAD_LETTERS = "inference.results", "inference.dead-letters"
_WAYS = (Way.STREAM,) * 8 + (Way.AWAIT,) + (Way.KAFKA,) * 4 + (Way.KAFKA_TWICE,) * 2 + (Way.KAFKA_NAMELESS,) * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    seconds: float
    seed: int
    directory: Path
    faults: tuple[Fault, ...] = EVERY_FAULT
    pause_seconds: tuple[float, float] = (5.0, 9.0)
    asks_per_second: float = 2.5
    settle_seconds: float = 60.0
    worker_module: str = "services.worker"
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    asks: list[Ask]
    injections: list[Injection]
    verdict: Verdict
    lag: int | None
    num_left_running: int | None

    @property
    def is_clean(self) -> bool:
        return self.verdict.num_violations == 0 and self.lag == 0 and self.num_left_running == 0


def new_ask(rng: random.Random, number: int) -> Ask:
    way = rng.choice(_WAYS)
    return Ask(
        name=f"ask-{number}",
        way=way,
        content=f"question {number} " + "x" * rng.randrange(60),
        seed=rng.randrange(1 << 60),
        num_tokens=rng.randrange(40, 220),
        num_choices=rng.choice((1, 1, 1, 2)),
        lane="bulk" if way not in (Way.STREAM, Way.AWAIT) and rng.random() < 0.3 else "interactive",
    )


class ChaosRun:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.asks: list[Ask] = []
        self._rng = random.Random(plan.seed)
        self._started_at = time.monotonic()

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - self._started_at:7.1f} {text}\n")

    async def run(self) -> Outcome:
        plan = self.plan
        # Whoever is killed every few seconds is not sick: it is started again at once.
        service_process._LAST_BACKOFF_SECONDS = 1.0
        async with AsyncExitStack() as exit_stack:
            redis = EmbeddedRedis(data_directory=plan.directory / "redis", appendonly=True)
            await exit_stack.enter_async_context(redis)
            kafka = EmbeddedKafka(plan.directory / "kafka")
            await exit_stack.enter_async_context(kafka)
            stack = await exit_stack.enter_async_context(EmbeddedStack(self._stack_plan(kafka, redis)))
            await stack.wait_until_ready()
            self._say("the stack is ready")
            http = HttpLoad(stack.http_urls, self._rng, patience_seconds=plan.seconds + plan.settle_seconds)
            exit_stack.push_async_callback(http.close)
            saboteur = Saboteur(
                stack,
                kafka,
                redis,
                random.Random(plan.seed + 1),
                redis_directory=plan.directory / "redis",
                count_in_flight=self._num_in_flight,
            )
            return await self._strike_and_judge(stack, http, saboteur, kafka.bootstrap_servers)

    def _num_in_flight(self) -> int:
        return sum(ask.is_open for ask in self.asks)

    def _stack_plan(self, kafka: EmbeddedKafka, redis: EmbeddedRedis) -> StackPlan:
        return StackPlan(
            data_dir=self.plan.directory,
            pools=(PoolPlan(workers=3, served_model_name="null"),),
            gateways=2,
            supervisors=2,
            kafka=kafka.bootstrap_servers,
            redis=redis.url,
            request_partitions=6,
            worker_module=self.plan.worker_module,
            environment={
                "PENSTOCK_WORKER_NULL_STEP_MS": "40",
                "PENSTOCK_WORKER_DRAIN_SECONDS": "1",
                # Here the world is bad, not the requests: nothing is poison that a killed worker held.
                "PENSTOCK_WORKER_MAX_ATTEMPTS": "1000",
                "PENSTOCK_WORKER_MAX_ENGINE_RESTARTS": "1000",
                "PYTHONPATH": str(Path(__file__).parents[2]),
                **self.plan.environment,
            },
        )

    async def _strike_and_judge(
        self, stack: EmbeddedStack, http: HttpLoad, saboteur: Saboteur, bootstrap: str
    ) -> Outcome:
        posts, offsets = KafkaLoad(bootstrap), OffsetWatch(bootstrap)
        loops = (posts.poll(), posts.hear_results(self.asks), offsets.watch())
        background = [asyncio.create_task(loop) for loop in loops]
        strikes = schedule(
            self.plan.seed, seconds=self.plan.seconds, faults=self.plan.faults, pause_seconds=self.plan.pause_seconds
        )
        async with asyncio.TaskGroup() as load:
            load.create_task(self._ask(load, http, posts))
            load.create_task(self._strike(saboteur, strikes))
        await posts.flush()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        self._say("asked and struck; settling")
        verdict = await self._settled_verdict(bootstrap)
        lag = await self._final_lag(offsets)
        verdict.differing += [f"committed offsets went back: {line}" for line in offsets.went_back]
        num_left_running = await _left_running(stack)
        offsets.close()
        return Outcome(self.asks, saboteur.injections, verdict, lag, num_left_running)

    async def _ask(self, group: asyncio.TaskGroup, http: HttpLoad, posts: KafkaLoad) -> None:
        end = time.monotonic() + self.plan.seconds
        while time.monotonic() < end:
            ask = new_ask(self._rng, len(self.asks))
            ask.asked_at = time.monotonic()
            self.asks.append(ask)
            if ask.way is Way.STREAM:
                group.create_task(http.stream(ask))
            elif ask.way is Way.AWAIT:
                group.create_task(http.await_result(ask))
            else:
                posts.post(ask)
            await asyncio.sleep(self._rng.expovariate(self.plan.asks_per_second))

    async def _strike(self, saboteur: Saboteur, strikes: Sequence[Strike]) -> None:
        begin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for strike in strikes:
                await asyncio.sleep(max(0.0, begin + strike.at_seconds - time.monotonic()))
                self._say(f"{strike.fault.value} ({self._num_in_flight()} in flight)")
                group.create_task(self._struck(saboteur, strike.fault))

    async def _struck(self, saboteur: Saboteur, fault: Fault) -> None:
        injection = await saboteur.strike(fault)
        self._say(f"  done: {fault.value} {injection.victim}")

    async def _settled_verdict(self, bootstrap: str) -> Verdict:
        """The verdict once everything accepted is answered, or when there was time enough for it."""
        give_up_at = time.monotonic() + self.plan.settle_seconds
        while True:
            results = await asyncio.to_thread(read_topic, bootstrap, RESULTS)
            dead_letters = await asyncio.to_thread(read_topic, bootstrap, DEAD_LETTERS)
            verdict = judge(self.asks, results, dead_letters)
            if not verdict.lost or time.monotonic() > give_up_at:
                return verdict
            await asyncio.sleep(1.0)

    async def _final_lag(self, offsets: OffsetWatch) -> int | None:
        give_up_at = time.monotonic() + self.plan.settle_seconds
        while (lag := await asyncio.to_thread(offsets.look)) != 0 and time.monotonic() < give_up_at:
            await asyncio.sleep(0.5)
        return lag


async def _left_running(stack: EmbeddedStack) -> int | None:
    """Requests and KV blocks that the fleet still holds when everything is answered; None: nobody says."""
    async with httpx.AsyncClient(timeout=3.0) as client:
        for _ in range(20):
            for url in stack.supervisor_urls:
                try:
                    workers = (await client.get(f"{url}/fleet")).json()["workers"]
                except (httpx.HTTPError, ValueError):
                    continue
                ready = [worker for worker in workers if worker["state"] == "ready"]
                left = sum(
                    worker["running_requests"]
                    + worker["waiting_requests"]
                    + worker["kv_blocks_total"]
                    - worker["kv_blocks_free"]
                    for worker in ready
                )
                if ready and left == 0:
                    return 0
            await asyncio.sleep(1.0)
    return left if "left" in locals() else None


def print_outcome(outcome: Outcome) -> None:
    print(render(rows(outcome.injections, outcome.asks)))
    print(summary(outcome.verdict, outcome.asks, lag=outcome.lag, num_left_running=outcome.num_left_running))
    for name in ("lost", "differing", "wrong", "streams", "unasked"):
        for line in getattr(outcome.verdict, name)[:20]:
            print(f"  {name}: {line}")


def chosen_faults(names: str) -> tuple[Fault, ...]:
    """`kill worker; freeze Kafka 4 s`; nothing named: every fault. Raises ValueError."""
    return tuple(Fault(name.strip()) for name in names.split(";") if name.strip()) or EVERY_FAULT


def main() -> int:
    directory = Path(os.environ.get("CHAOS_DIRECTORY") or tempfile.mkdtemp(prefix="penstock-chaos-"))
    plan = Plan(
        seconds=60 * float(os.environ.get("CHAOS_MINUTES", "5")),
        seed=int(os.environ.get("CHAOS_SEED", "1")),
        directory=directory,
        faults=chosen_faults(os.environ.get("CHAOS_FAULTS", "")),
    )
    outcome = asyncio.run(ChaosRun(plan).run())
    print_outcome(outcome)
    if not outcome.is_clean:
        print(f"BROKEN PROMISES (seed {plan.seed}); logs are in {directory / 'logs'}")
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    print(f"every promise held (seed {plan.seed}, {plan.seconds / 60:g} minutes, {len(outcome.injections)} faults)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
