"""Switches telemetry on for one service process and off again, within a bound.

    async with setup_telemetry(settings, "gateway"):
        ...

Logs always; spans are exported over OTLP/HTTP when an endpoint is set. Without one, context still flows through
(a client's traceparent reaches Kafka) and log lines still carry trace ids, but nothing is recorded.
Refuses to know what is traced or counted. A collector that is away or slow costs spans, never a request.
"""

import asyncio
import importlib.metadata
import os
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Tracer

from shared.settings.telemetry import TelemetrySettings
from shared.telemetry.logs import configure_logs
from shared.telemetry.span_export import OtlpExporter, QuietExporter
from shared.telemetry.spans import use_tracer

logger = structlog.get_logger(__name__)

FLUSH_SECONDS = 2.0
_EXPORT_TIMEOUT_SECONDS = 5.0
_SCOPE_NAME = "penstock"
_SCHEDULE_DELAY_MS = 1_000
_MAX_QUEUED_SPANS = 16_384
_MAX_BATCH_SPANS = 512


def traces_endpoint(settings: TelemetrySettings, environment: Mapping[str, str]) -> str | None:
    """The full URL that spans go to, or None. OpenTelemetry's own variables win over ours."""
    full = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if full:
        return full
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or settings.otlp_endpoint
    return f"{base.rstrip('/')}/v1/traces" if base else None


def default_instance() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _version() -> str:
    try:
        return importlib.metadata.version("penstock-inference")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"


def _sampler(settings: TelemetrySettings, endpoint: str | None) -> Sampler:
    root = ALWAYS_OFF if endpoint is None else TraceIdRatioBased(settings.trace_sample_ratio)
    return ParentBased(root)


class Telemetry:
    """One service's telemetry, from start to flush. Enter it once; entering replaces the process's tracer."""

    def __init__(self, settings: TelemetrySettings, service_name: str, instance: str, endpoint: str | None) -> None:
        self._settings = settings
        self._service_name = service_name
        self._instance = instance
        self._endpoint = endpoint
        self._provider: TracerProvider | None = None
        self._tracer_before: Tracer | None = None
        self._undo_logs: Callable[[], None] | None = None

    async def __aenter__(self) -> "Telemetry":
        self._undo_logs = configure_logs(
            level=self._settings.log_level,
            log_format=self._settings.log_format,
            log_content=self._settings.log_content,
            constants={"service": self._service_name, "instance": self._instance},
        )
        self._provider = self._build_provider()
        self._tracer_before = use_tracer(self._provider.get_tracer(_SCOPE_NAME, _version()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tracer_before is not None:
            use_tracer(self._tracer_before)
        if self._provider is not None:
            await _within(FLUSH_SECONDS, self._provider.shutdown)
        if self._undo_logs is not None:
            self._undo_logs()

    def _build_provider(self) -> TracerProvider:
        resource = Resource.create(
            {
                "service.name": self._service_name,
                "service.namespace": "penstock",
                "service.instance.id": self._instance,
                "service.version": _version(),
            }
        )
        sampler = _sampler(self._settings, self._endpoint)
        provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        if self._endpoint is not None:
            scope = InstrumentationScope(_SCOPE_NAME, _version())
            exporter = OtlpExporter(self._endpoint, resource, scope, timeout_seconds=_EXPORT_TIMEOUT_SECONDS)
            provider.add_span_processor(
                BatchSpanProcessor(
                    QuietExporter(exporter),
                    max_queue_size=_MAX_QUEUED_SPANS,
                    schedule_delay_millis=_SCHEDULE_DELAY_MS,
                    max_export_batch_size=_MAX_BATCH_SPANS,
                )
            )
        return provider


async def _within(seconds: float, blocking: Callable[[], None]) -> None:
    """Run it in a daemon thread and stop waiting after the bound: the process may end while it still blocks.

    Not `asyncio.to_thread`: asyncio.run waits for the executor's threads at its end, for minutes.
    """
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()

    def work() -> None:
        try:
            blocking()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(finished.set)

    threading.Thread(target=work, name="telemetry-flush", daemon=True).start()
    try:
        await asyncio.wait_for(finished.wait(), seconds)
    except TimeoutError:
        logger.warning("telemetry was not flushed in time; the last spans are lost", bound_seconds=seconds)


def setup_telemetry(
    settings: TelemetrySettings,
    service_name: str,
    instance: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Telemetry:
    """Telemetry of one service: `gateway`, `worker` or `supervisor`."""
    return Telemetry(
        settings,
        service_name,
        instance or settings.service_instance or default_instance(),
        traces_endpoint(settings, os.environ if environment is None else environment),
    )
