"""Puts an accepted request on its pool's topic: the body as it came, the envelope in headers, acknowledged.

It chooses the partition (`routing.py`) and carries the trace on. It does not know who waits for the answer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, set_span_in_context

from services.gateway.fleet_directory import FleetDirectory
from services.gateway.ports import RequestProducer
from services.gateway.routing import PartitionRouter
from services.gateway.routing_policies import Route
from shared.contracts.errors import PlatformError
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Lane, RequestKind
from shared.contracts.topics import TopicNames
from shared.openai.envelope import gateway_headers
from shared.telemetry import spans
from shared.telemetry.metrics import GATEWAY_PUBLISH
from shared.telemetry.propagation import inject

_FAILURE_MEMORY_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One request on its way to Kafka. `event_id` is what the caller's side calls it (`ce_id`)."""

    request_id: RequestId
    event_id: str
    tenant: str
    pool: str
    lane: Lane
    kind: RequestKind
    body: bytes
    deadline_ms: int | None
    priority: int
    trace_context: Context
    route: Route


class RequestPublisher:
    """Raises `BrokerUnavailable` when the acknowledgement does not come: then nobody knows whether it is there."""

    def __init__(
        self,
        producer: RequestProducer,
        *,
        names: TopicNames,
        directory: FleetDirectory,
        router: PartitionRouter,
        now_ms: Callable[[], int],
    ) -> None:
        self._producer = producer
        self._names = names
        self._directory = directory
        self._router = router
        self._now_ms = now_ms
        self._failed_at_ms: int | None = None

    @property
    def has_failed_lately(self) -> bool:
        """The last publication failed, and that is not long ago: the next one may work."""
        return self._failed_at_ms is not None and self._now_ms() - self._failed_at_ms < _FAILURE_MEMORY_MS

    async def publish(self, publication: Publication) -> None:
        topic = self._names.requests(publication.pool, publication.lane)
        partition = self._router.choose(self._directory.ready_workers(publication.pool), topic, publication.route)
        span = spans.tracer().start_span(
            spans.PUBLISH_REQUEST, context=publication.trace_context, kind=SpanKind.PRODUCER
        )
        if span.is_recording():
            span.set_attributes(spans.messaging_attributes("send", topic, partition=partition))
            span.set_attributes({spans.REQUEST_ID: publication.request_id, spans.TENANT: publication.tenant})
        started_at = time.perf_counter()
        try:
            await self._producer.send(
                topic,
                key=publication.request_id.encode(),
                value=publication.body,
                headers=self._headers(publication, set_span_in_context(span, publication.trace_context)),
                partition=partition,
            )
            self._failed_at_ms = None
        except PlatformError as error:
            self._failed_at_ms = self._now_ms()
            spans.set_error(span, error.code, error.message)
            raise
        finally:
            GATEWAY_PUBLISH.observe(time.perf_counter() - started_at)
            span.end()

    def _headers(self, publication: Publication, trace_context: Context) -> tuple[tuple[str, bytes | None], ...]:
        return gateway_headers(
            event_id=publication.event_id,
            tenant=publication.tenant,
            kind=publication.kind,
            accepted_at_ms=self._now_ms(),
            deadline_ms=publication.deadline_ms,
            priority=publication.priority,
            trace_headers=inject(trace_context),
        )
