"""Log lines: structlog for ours, the standard library's loggers routed through the same pipeline.

One JSON object a line (or colours for eyes), each with service, instance and, inside a request, its trace id.
What people wrote and what models answered is private: values under the keys of `CONTENT_KEYS` are replaced by their
length unless the operator asked for content. Writes to standard error. Refuses to know settings' sources and spans.

Start uvicorn with `log_config=None` and FastStream with `logger=None`: they would install handlers of their own.
"""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from opentelemetry import trace
from structlog.typing import Processor

from shared.telemetry.advice import advice_for
from shared.telemetry.printable import printable
from shared.telemetry.repetition import LessOften

CONTENT_KEYS = frozenset(
    {"prompt", "messages", "content", "text", "completion", "output", "body", "value", "request_body"}
)

_LEAST_LEVELS: Mapping[str, int] = {
    "aiokafka": logging.WARNING,
    "asyncio": logging.WARNING,
    "faststream": logging.ERROR,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "kafka": logging.WARNING,
    "opentelemetry": logging.ERROR,
    # A collector that is away is reported by our own exporter, once a minute.
    "opentelemetry.exporter": logging.CRITICAL,
    "opentelemetry.sdk._shared_internal": logging.ERROR,
    "urllib3": logging.ERROR,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.WARNING,
}
"""Libraries that speak at INFO about things nobody acts on."""

_LOUD = frozenset({"warning", "error", "exception", "critical"})

EventDict = MutableMapping[str, Any]


def _add_trace(_logger: Any, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
        event.setdefault("span_id", f"{context.span_id:016x}")
    return event


def _advise(_logger: Any, method: str, event: EventDict) -> EventDict:
    if method in _LOUD and (advice := advice_for(event.get("event"))) is not None:
        event.setdefault("advice", advice)
    return event


def _hide_content(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for key in CONTENT_KEYS & event.keys():
        value = event[key]
        size = len(value) if hasattr(value, "__len__") else 1
        event[key] = f"<hidden, length {size}>"
    return event


def _add_constants(constants: Mapping[str, str]) -> Processor:
    def add(_logger: Any, _method: str, event: EventDict) -> EventDict:
        for key, value in constants.items():
            event.setdefault(key, value)
        return event

    return add


def _put_first_things_first(_logger: Any, _method: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key) for key in ("timestamp", "level") if key in event}
    return {**first, "message": event.pop("event", ""), **event}


def _escape_what_does_not_print(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """For eyes: JSON escapes by itself. Tracebacks and stacks are ours and have lines."""
    for key, value in event.items():
        if isinstance(value, str) and key not in ("exception", "stack"):
            event[key] = printable(value)
    return event


def _readable(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else repr(value)


def _rendering(log_format: str, stream: TextIO) -> list[Processor]:
    if log_format == "console":
        plain = structlog.dev.plain_traceback
        return [
            _escape_what_does_not_print,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain),
        ]
    return [
        # Never with the frames' local variables: prompts are among them.
        structlog.processors.format_exc_info,
        _put_first_things_first,
        structlog.processors.JSONRenderer(default=_readable),
    ]


def configure_logs(
    *,
    level: str,
    log_format: str,
    log_content: bool = False,
    constants: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> Callable[[], None]:
    """Set up logging of the whole process. Returns what undoes it (for tests; services end instead)."""
    target = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_constants(constants or {}),
        _add_trace,
        _advise,
        structlog.processors.StackInfoRenderer(),
    ]
    if not log_content:
        shared.append(_hide_content)
    rendering = _rendering(log_format, target)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(target),
        # Module-level loggers live longer than one configuration (tests, `penstock up` in one process).
        cache_logger_on_first_use=False,
    )
    return _route_standard_library(shared, rendering, level, target)


def _route_standard_library(
    shared: list[Processor], rendering: list[Processor], level: str, target: TextIO
) -> Callable[[], None]:
    handler = logging.StreamHandler(target)
    handler.addFilter(LessOften())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    least = logging.getLevelNamesMapping()[level]
    for name, quiet in _LEAST_LEVELS.items():
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(quiet, least))

    def undo() -> None:
        root.handlers[:], root.level = before[0], before[1]
        logging.captureWarnings(False)
        structlog.reset_defaults()

    return undo
