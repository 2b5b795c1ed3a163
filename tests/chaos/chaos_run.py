"""One run: the stack under load and faults, then the verdict. Knows processes and addresses, judges nothing itself."""

import asyncio
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import httpx
from confluent_kafka import KafkaException

from services.cli.embedded import service_process
from services.cli.embedded.kafka import EmbeddedKafka
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.redis import EmbeddedRedis
from services.cli.embedded.stack import EmbeddedStack
from tests.chaos.asks import Ask, Way
from tests.chaos.clock_shim import build_clock_shim
from tests.chaos.faults import Injection, Saboteur
from tests.chaos.http_load import HttpLoad
from tests.chaos.kafka_load import KafkaLoad, OffsetWatch
from tests.chaos.load_mix import NULL_STEP_MS, next_null_ask, next_rehearsed_ask
from tests.chaos.oracle import Record, Verdict, judge, read_topic
from tests.chaos.rehearsal import rehearse
from tests.chaos.report import Leftovers
from tests.chaos.schedule import EVERY_FAULT, OVERLAP_SHARE, Fault, Strike, schedule

_LEAST_PATIENCE_SECONDS = 90.0
"""A client of a short run waits no less long than one of a long run: workers may be away for a minute."""
_READS = 5
_FLEET_LOOKS = 60
"""One a second: a worker that was killed last starts within that, also on busy cores."""
REQUESTS = ("inference.requests.default.interactive", "inference.requests.default.bulk")
RESULTS, DEAD_LETTERS = "inference.results", "inference.dead-letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`model`: a checkpoint for a run with real engines; None runs the null engine."""

    seconds: float
    seed: int
    directory: Path
    faults: tuple[Fault, ...] = EVERY_FAULT
    pause_seconds: tuple[float, float] = (6.0, 11.0)
    overlap_share: float = OVERLAP_SHARE
    asks_per_second: float = 2.5
    settle_seconds: float = 90.0
    """Without a further answer: longer than any worker is away and any lease, session or claim has to be waited out."""
    worker_module: str = "tests.chaos.mixed_worker"
    workers: int = 3
    model: Path | None = None
    next_null_ask: Callable[[random.Random, int], Ask] = next_null_ask
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        return "null" if self.model is None else "tiny"


@dataclass(slots=True)
class Outcome:
    asks: list[Ask]
    injections: list[Injection]
    verdict: Verdict
    leftovers: Leftovers
    notes: list[str]

    @property
    def is_clean(self) -> bool:
        return self.verdict.num_violations == 0 and self.leftovers.is_nothing


class ChaosRun:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.asks: list[Ask] = []
        self.notes: list[str] = []
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
            posts = KafkaLoad(kafka.bootstrap_servers)
            http = HttpLoad(
                stack.http_urls,
                self._rng,
                patience_seconds=plan.seconds + max(plan.settle_seconds, _LEAST_PATIENCE_SECONDS),
                cancel_by_record=posts.cancel,
            )
            exit_stack.push_async_callback(http.close)
            shim = build_clock_shim(plan.directory)
            saboteur = Saboteur(
                stack,
                kafka,
                redis,
                random.Random(plan.seed + 1),
                redis_directory=plan.directory / "redis",
                count_in_flight=self._num_in_flight,
                clock_shim=shim,
            )
            next_ask = await self._make_load(stack)
            return await self._strike_and_judge(stack, http, posts, saboteur, next_ask, kafka.bootstrap_servers)

    def _num_in_flight(self) -> int:
        return sum(ask.is_open for ask in self.asks)

    def _stack_plan(self, kafka: EmbeddedKafka, redis: EmbeddedRedis) -> StackPlan:
        plan = self.plan
        pool = PoolPlan(workers=plan.workers, model=plan.model, served_model_name=plan.model_name, dtype="float32")
        return StackPlan(
            data_dir=plan.directory,
            pools=(pool,),
            gateways=2,
            supervisors=2,
            kafka=kafka.bootstrap_servers,
            redis=redis.url,
            request_partitions=6,
            worker_module=plan.worker_module,
            environment={
                "PENSTOCK_WORKER_NULL_STEP_MS": str(NULL_STEP_MS),
                "PENSTOCK_WORKER_NULL_FAIL_EVERY": "20",
                "PENSTOCK_WORKER_DRAIN_SECONDS": "1",
                "PENSTOCK_WORKER_STEP_TIMEOUT_SECONDS": "5" if plan.model is None else "20",
                # Here the world is bad, not the requests: nothing is poison that a killed worker held.
                "PENSTOCK_WORKER_MAX_ATTEMPTS": "1000",
                "PENSTOCK_WORKER_MAX_ENGINE_RESTARTS": "1000",
                "PYTHONPATH": str(Path(__file__).parents[2]),
                **plan.environment,
            },
        )

    async def _make_load(self, stack: EmbeddedStack) -> Callable[[int], Ask]:
        if self.plan.model is None:
            return partial(self.plan.next_null_ask, self._rng)
        rehearsed = await rehearse(stack.http_url, self.plan.model_name, self.plan.seed)
        self._say(f"{len(rehearsed)} requests were rehearsed")
        self.asks += rehearsed
        return lambda number: next_rehearsed_ask(self._rng, number, rehearsed)

    async def _strike_and_judge(
        self,
        stack: EmbeddedStack,
        http: HttpLoad,
        posts: KafkaLoad,
        saboteur: Saboteur,
        next_ask: Callable[[int], Ask],
        bootstrap: str,
    ) -> Outcome:
        offsets = OffsetWatch(bootstrap)
        loops = (posts.poll(), posts.hear_results(self.asks), offsets.watch())
        background = [asyncio.create_task(loop) for loop in loops]
        async with asyncio.TaskGroup() as load:
            load.create_task(self._ask(load, http, posts, next_ask))
            load.create_task(self._strike(saboteur, self._schedule(saboteur)))
        await posts.flush()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        self._say("asked and struck; settling")
        emptied = [injection for injection in saboteur.injections if injection.fault is Fault.EMPTY_REDIS]
        forgot = [(injection.started_at, injection.ended_at) for injection in emptied]
        await self._settled(bootstrap, forgot)
        lag = await self._final_lag(offsets)
        requests, kv_blocks = await _left_running(stack)
        verdict = await self._verdict(bootstrap, forgot)  # with what was said of them after the first answer
        verdict.differing += [f"committed offsets went back: {line}" for line in offsets.went_back]
        offsets.close()
        if saboteur.num_dropped:
            self.notes.append(f"{saboteur.num_dropped} faults were dropped: Kafka or Redis was down already")
        leftovers = Leftovers(lag=lag, requests=requests, kv_blocks=kv_blocks)
        return Outcome(self.asks, saboteur.injections, verdict, leftovers, self.notes)

    def _schedule(self, saboteur: Saboteur) -> list[Strike]:
        faults = self.plan.faults
        if Fault.CLOCK_OFF in faults and not saboteur.can_shift_clocks:
            faults = tuple(fault for fault in faults if fault is not Fault.CLOCK_OFF)
            self.notes.append("SKIPPED: no C compiler or no LD_PRELOAD here, so no clock was put off")
        plan = self.plan
        return schedule(
            plan.seed,
            seconds=plan.seconds,
            faults=faults,
            pause_seconds=plan.pause_seconds,
            overlap_share=plan.overlap_share,
        )

    async def _ask(
        self, group: asyncio.TaskGroup, http: HttpLoad, posts: KafkaLoad, next_ask: Callable[[int], Ask]
    ) -> None:
        end = time.monotonic() + self.plan.seconds
        while time.monotonic() < end:
            ask = next_ask(len(self.asks))
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
        self._say(f"  dropped: {fault.value}" if injection is None else f"  done: {fault.value} {injection.victim}")

    async def _settled(self, bootstrap: str, forgot: Sequence[tuple[float, float]]) -> None:
        """Until everything accepted is answered, or nothing has been answered for a while.

        No promise says how long a backlog takes on busy cores. One says that what is accepted is answered: who still
        waits when nothing moves any more is lost.
        """
        num_answered, give_up_at = -1, math.inf
        while time.monotonic() < give_up_at:
            verdict = await self._verdict(bootstrap, forgot)
            if not verdict.lost:
                return
            if verdict.num_answered > num_answered:
                num_answered, give_up_at = verdict.num_answered, time.monotonic() + self.plan.settle_seconds
            await asyncio.sleep(2.0)

    async def _verdict(self, bootstrap: str, forgot: Sequence[tuple[float, float]]) -> Verdict:
        results, dead_letters, *requests = [
            await self._read(bootstrap, topic) for topic in (RESULTS, DEAD_LETTERS, *REQUESTS)
        ]
        return judge(self.asks, results, dead_letters, forgot=forgot, requests=list(chain(*requests)))

    async def _read(self, bootstrap: str, topic: str) -> list[Record]:
        """Tried again: an hour's verdict is not to be missed because a busy Kafka once answered late."""
        for _ in range(_READS - 1):
            try:
                return await asyncio.to_thread(read_topic, bootstrap, topic)
            except (KafkaException, RuntimeError) as error:
                self._say(f"{topic} could not be read: {error}")
                await asyncio.sleep(2.0)
        return await asyncio.to_thread(read_topic, bootstrap, topic)

    async def _final_lag(self, offsets: OffsetWatch) -> int | None:
        give_up_at = time.monotonic() + self.plan.settle_seconds
        while (lag := await asyncio.to_thread(offsets.look)) != 0 and time.monotonic() < give_up_at:
            await asyncio.sleep(0.5)
        return lag


async def _left_running(stack: EmbeddedStack) -> tuple[int | None, int | None]:
    """Requests and KV blocks that the fleet still holds when everything is answered; None: nobody says."""
    requests: int | None = None
    kv_blocks: int | None = None
    async with httpx.AsyncClient(timeout=3.0) as client:
        for _ in range(_FLEET_LOOKS):
            for url in stack.supervisor_urls:
                try:
                    workers = (await client.get(f"{url}/fleet")).json()["workers"]
                except (httpx.HTTPError, ValueError):
                    continue
                ready = [worker for worker in workers if worker["state"] == "ready"]
                requests = sum(worker["running_requests"] + worker["waiting_requests"] for worker in ready)
                kv_blocks = sum(worker["kv_blocks_total"] - worker["kv_blocks_free"] for worker in ready)
                if ready and requests == kv_blocks == 0:
                    return 0, 0
            await asyncio.sleep(1.0)
    return requests, kv_blocks
