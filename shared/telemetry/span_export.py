"""Spans out of the process: over OTLP/HTTP, and what happens when nobody takes them.

Called from the batch thread of the SDK. Refuses to know what the spans say.
"""

import time
from collections.abc import Callable, Sequence

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from shared.telemetry.metrics import SPANS_DROPPED
from shared.telemetry.otlp_encoding import encode_export

logger = structlog.get_logger(__name__)

_REPORT_EVERY_SECONDS = 60.0


class OtlpExporter(OTLPSpanExporter):
    """The SDK's exporter, its transport, retries and OTEL_ variables (headers, certificates, compression), with our
    encoder before it. `_client` is its own name for the transport: pyproject.toml holds the version that has it.
    """

    def __init__(
        self, endpoint: str, resource: Resource, scope: InstrumentationScope, *, timeout_seconds: float
    ) -> None:
        super().__init__(endpoint=endpoint, timeout=timeout_seconds)
        self._resource = resource
        self._scope = scope

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._client.export(encode_export(spans, self._resource, self._scope))
        return SpanExportResult.SUCCESS if result.success else SpanExportResult.FAILURE


class QuietExporter(SpanExporter):
    """Counts what an exporter could not send and says so at most once a minute. Called from the batch thread."""

    def __init__(self, wrapped: SpanExporter, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wrapped = wrapped
        self._monotonic = monotonic
        self._dropped = 0
        self._reported_at: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._wrapped.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._dropped += len(spans)
            SPANS_DROPPED.inc(len(spans))
            self._report()
        return result

    def _report(self) -> None:
        now = self._monotonic()
        if self._reported_at is None or now - self._reported_at >= _REPORT_EVERY_SECONDS:
            self._reported_at = now
            logger.warning("spans could not be exported; is the OTLP endpoint up?", spans_dropped=self._dropped)

    def shutdown(self) -> None:
        self._wrapped.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._wrapped.force_flush(timeout_millis)
