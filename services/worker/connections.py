"""Everything a worker is connected to, opened and closed together. Knows clients and settings, no requests."""

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from services.worker.settings import WorkerSettings
from shared.contracts.errors import PlatformError
from shared.contracts.identifiers import Incarnation
from shared.contracts.requests import Lane
from shared.ledger.breaker import redis_breaker
from shared.ledger.ledger import Ledger
from shared.messaging.breaker import kafka_breaker
from shared.messaging.broker import control_broker
from shared.messaging.dead_letter import publish_dead_letter
from shared.messaging.producer import RecordProducer
from shared.messaging.records import SourceRecord
from shared.messaging.reply_producer import ReplyProducer
from shared.messaging.source import RequestSource
from shared.openai.envelope import retry_instant_ms
from shared.resilience.clock import Clock
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings


class Connections:
    """The source is made here and entered later: partitions come when the engine is ready.

    The lease has a ledger of its own, so that it never waits behind requests for a connection.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        kafka: KafkaSettings,
        redis: RedisSettings,
        *,
        name: str,
        incarnation: Incarnation,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self.names = kafka.topic_names
        self._retry_topics = frozenset(self.names.retries(settings.pool))
        self.group = self.names.worker_group(settings.pool)
        self.ledger = Ledger(redis, breaker=redis_breaker(redis, clock=clock))
        self.lease_ledger = Ledger(redis)
        self.results = RecordProducer(
            kafka, client_id=f"{name}-results", breaker=kafka_breaker(kafka, clock=clock, name="results")
        )
        self.replies = ReplyProducer(kafka, client_id=name, timeout_seconds=settings.reply_timeout_seconds)
        self.broker = control_broker(kafka, client_id=name)
        self.source = self._build_source(settings, kafka, incarnation)
        self._exit = AsyncExitStack()

    def _build_source(self, settings: WorkerSettings, kafka: KafkaSettings, incarnation: Incarnation) -> RequestSource:
        pool = settings.pool
        high = settings.intake_high_mark or 2 * settings.max_running_requests
        retries = self.names.retries(pool)
        return RequestSource(
            kafka,
            group=self.group,
            topics=(
                self.names.resume(pool),
                *retries,
                self.names.requests(pool, Lane.INTERACTIVE),
                self.names.requests(pool, Lane.BULK),
            ),
            client_id=incarnation,  # so that a supervisor knows which member of the group died
            high_mark=high,
            # Bulk never fills the room that interactive requests need.
            high_marks=(high, *(high for _ in retries), high, max(1, high * 3 // 4)),
            hold_back=self._seconds_until_due,
        )

    def _seconds_until_due(self, record: SourceRecord) -> float:
        """Of a copy on a delay topic, by Redis' clock; every other record is due."""
        instant_ms = retry_instant_ms(record.headers) if record.topic in self._retry_topics else None
        return 0.0 if instant_ms is None else (instant_ms - self._clock.now_ms()) / 1_000

    async def __aenter__(self) -> Self:
        """Listeners have to be registered at the broker before."""
        async with AsyncExitStack() as stack:
            for part in (self.ledger, self.lease_ledger, self.results, self.replies, self.broker):
                await stack.enter_async_context(part)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def publish_dead_letter(self, record: SourceRecord, error: PlatformError) -> None:
        await publish_dead_letter(self.results, self.names, record, error=error, now_ms=self._clock.now_ms())
