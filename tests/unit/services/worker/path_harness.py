"""A worker's request path without Kafka, Redis and processes: real parts, a null engine stepped by the test.

Everything that leaves the path is written into one journal, in order: that order is what the delivery rules are about.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.worker.byte_tokenizer import byte_tokenizer, null_vocabulary
from services.worker.engine.events import Cancel, RequestRejected, StepResult, Submit
from services.worker.null_engine import NullEngine, NullEngineConfig
from services.worker.observations import Observations
from services.worker.request_path import PathPorts, PathSettings, RequestPath
from services.worker.retries import Retry
from services.worker.work import Work
from shared.contracts.errors import EngineFailed, PlatformError
from shared.contracts.events import SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.contracts.topics import TopicNames
from shared.ledger.records import Append, AppendAnswer, SealAnswer
from shared.messaging.dead_letter import DeadLetterLimit
from shared.messaging.records import SourceRecord
from shared.resilience.clock import ManualClock
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.ledger_store import Store

TOKENIZER = byte_tokenizer()
VOCABULARY = null_vocabulary(TOKENIZER)
NAMES = TopicNames()
DEADLINE_SECONDS = 10.0
POSTED_MS = 1_700_000_000_000


class JournalLedger(InMemoryLedger):
    """The contract-tested fake, with a journal of the verbs that change a request."""

    def __init__(self, journal: list[str], store: Store) -> None:
        super().__init__(store=store)
        self._journal = journal
        self.seal_failures: list[PlatformError] = []

    async def append(self, batch: Sequence[Append]) -> list[AppendAnswer]:
        answers = await super().append(batch)
        self._journal.append("append")
        return answers

    async def seal(self, request_id: RequestId, token: ClaimToken, outcome: SealedOutcome) -> SealAnswer:
        if self.seal_failures:
            raise self.seal_failures.pop(0)
        answer = await super().seal(request_id, token, outcome)
        self._journal.append("seal")
        return answer

    async def finish(self, request_id: RequestId) -> bool:
        answer = await super().finish(request_id)
        self._journal.append("finish")
        return answer


@dataclass
class JournalProducer:
    """Acknowledges at once, unless `failures` has something to raise."""

    name: str
    journal: list[str]
    sent: list[tuple[str, bytes | None, dict[str, bytes | None]]] = field(default_factory=list)
    failures: list[PlatformError] = field(default_factory=list)

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.journal.append(self.name)
        self.sent.append((topic, value, dict(headers)))


@dataclass
class JournalDelivery:
    record: SourceRecord
    journal: list[str]
    is_done: bool = False
    is_waiting: bool = False

    def wait_turn(self, is_waiting: bool) -> None:
        self.is_waiting = is_waiting

    def done(self) -> None:
        self.is_done = True
        self.journal.append("done")


class LocalEngine:
    """The engine's port over a null engine in this process; the test steps it."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self.null = NullEngine(NullEngineConfig(vocabulary=VOCABULARY, **options))
        self.is_up = True
        self.submitted: list[Submit] = []
        self.cancelled: list[tuple[str, int | None]] = []
        self.rejects_with: str | None = None

    def restart(self) -> None:
        self.null = NullEngine(NullEngineConfig(vocabulary=VOCABULARY, **self._options))
        self.is_up = True

    def submit(self, submit: Submit) -> None:
        if not self.is_up:
            raise EngineFailed("down")
        self.submitted.append(submit)
        self.null.submit(submit)

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        self.cancelled.append((request_id, choice))
        self.null.cancel(Cancel(request_id=request_id, choice=choice))

    def retire(self, request_id: str) -> None:
        pass

    def step(self) -> StepResult:
        if self.rejects_with is None:
            return self.null.step()
        request_id, code = self.submitted[-1].request_id, self.rejects_with
        self.cancel(request_id)
        result = self.null.step()
        rejected = RequestRejected(request_id=request_id, code=code, message="refused by the test")
        return StepResult(tokens=[], timings=[], rejected=[rejected], statistics=result.statistics)


class Valve:
    def __init__(self) -> None:
        self.is_paused = False

    def pause_intake(self) -> None:
        self.is_paused = True

    def resume_intake(self) -> None:
        self.is_paused = False


class Spawner:
    """Tasks of one test; a failed one fails the test at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        return task

    def forget_the_finished(self) -> None:
        self._tasks = {task for task in self._tasks if not task.done()}

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


class PathHarness:
    """One worker's path. Several may share a `Store`: that is a fleet."""

    def __init__(self, *, store: Store | None = None, name: str = "worker-0", **options: Any) -> None:
        self.journal: list[str] = []
        self.clock = ManualClock(now_ms=POSTED_MS)
        self.store = store or Store(now_ms=self.clock.now_ms)
        self.ledger = JournalLedger(self.journal, self.store)
        self.incarnation = Incarnation(f"{name}.0001")
        self.engine = LocalEngine(**options.pop("engine", {}))
        self.results = JournalProducer("publish", self.journal)
        self.replies = JournalProducer("reply", self.journal)
        self.dead_letters: list[tuple[SourceRecord, PlatformError]] = []
        self.passed_on: list[RequestId] = []
        self.retried: list[tuple[Work, Retry]] = []
        self.has_delay_topics = True
        self.has_others = True
        self.alarms: list[Exception] = []
        self.valve = Valve()
        self.spawner = Spawner()
        self._offset = 0
        limit = DeadLetterLimit(max_run=options.pop("max_dead_letter_run", 1_000))
        values: dict[str, Any] = {"flush_interval_seconds": 0.001, "max_attempts": 3, **options}
        self.path = RequestPath(
            PathPorts(
                ledger=self.ledger,
                engine=self.engine,
                results=self.results,
                replies=self.replies,
                dead_letters=self._dead_letter,
                valve=self.valve,
                spawner=self.spawner,
                clock=self.clock,
                tokenizer=TOKENIZER,
                pass_on=self._pass_on,
                retry_later=self._retry_later,
            ),
            PathSettings(
                pool="default",
                model="null",
                cluster="test",
                incarnation=self.incarnation,
                names=NAMES,
                max_result_bytes=1_000_000,
                **values,
            ),
            observations=Observations(pool="default", group="g", incarnation=self.incarnation),
            limit=limit,
            alarm=self.alarms.append,
        )

    async def _pass_on(self, work: Work) -> bool:
        if not self.has_others:
            return False
        self.passed_on.append(work.request_id)
        work.delivery.done()
        return True

    async def _retry_later(self, work: Work, retry: Retry) -> bool:
        if work.envelope.is_ordered or not self.has_delay_topics:
            return False
        self.retried.append((work, retry))
        work.delivery.done()
        return True

    async def _dead_letter(self, record: SourceRecord, error: PlatformError) -> None:
        self.journal.append("dead letter")
        self.dead_letters.append((record, error))

    @staticmethod
    def record(
        value: bytes | None = b"{}",
        *,
        headers: Sequence[tuple[str, bytes | None]] = (),
        topic: str = "inference.requests.default.interactive",
        key: bytes | None = None,
        offset: int = 1,
    ) -> SourceRecord:
        return SourceRecord(
            topic=topic,
            partition=0,
            offset=offset,
            timestamp_ms=POSTED_MS,
            key=key,
            value=value,
            headers=tuple(headers),
        )

    def post(
        self,
        value: bytes | None,
        *,
        headers: Sequence[tuple[str, bytes | None]] = (),
        topic: str = "inference.requests.default.interactive",
        key: bytes | None = None,
    ) -> JournalDelivery:
        self._offset += 1
        record = self.record(value, headers=headers, topic=topic, key=key, offset=self._offset)
        delivery = JournalDelivery(record, self.journal)
        self.path.deliver(delivery)
        return delivery

    def ask(
        self,
        *,
        headers: Sequence[tuple[str, bytes | None]] = (("ce_id", b"a"),),
        key: bytes | None = None,
        **body: Any,
    ) -> JournalDelivery:
        return self.post(json.dumps({"prompt": "abc", "max_tokens": 4, **body}).encode(), headers=headers, key=key)

    def kill_engine(self) -> None:
        self.engine.is_up = False
        self.path.engine_lost("killed by the test")

    def restart_engine(self) -> None:
        self.engine.restart()
        self.path.engine_ready(self.engine.null.ready)

    async def turn(self, *, seconds: float = 0.01, is_stepping: bool = True) -> None:
        """A little time: one engine step when there is work, and everybody who can run runs."""
        if is_stepping and self.engine.is_up and self.engine.null.has_work:
            self.path.step_finished(self.engine.step())
        await self.clock.advance(seconds)
        self.path.emitter.expire(self.clock.now_ms())

    async def until(self, condition: Callable[[], bool], *, seconds: float = 0.01, is_stepping: bool = True) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await self.turn(seconds=seconds, is_stepping=is_stepping)

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(value) for _, value, _ in self.results.sent if value is not None]

    def outcomes(self) -> list[str]:
        return [
            (headers["ce_type"] or b"").decode().removeprefix("penstock.inference.").removesuffix(".v1")
            for _, _, headers in self.results.sent
        ]


@contextlib.asynccontextmanager
async def running_path(**options: Any) -> AsyncIterator[PathHarness]:
    """With its flush loop and a ready engine."""
    harness = PathHarness(**options)
    harness.path.engine_ready(harness.engine.null.ready)
    harness.spawner.create_task(harness.path.emitter.run())
    try:
        yield harness
    finally:
        await harness.spawner.close()


async def undisturbed(**body: Any) -> dict[str, Any]:
    async with running_path() as harness:
        delivery = harness.ask(**body)
        await harness.until(lambda: delivery.is_done)
        return harness.bodies()[0]


def only_request(harness: PathHarness) -> RequestId:
    (request_id,) = harness.store.entries
    return RequestId(request_id)


def num_logged(harness: PathHarness) -> int:
    return sum(len(chunk.token_ids) for entry in harness.store.entries.values() for chunk in entry.chunks)
