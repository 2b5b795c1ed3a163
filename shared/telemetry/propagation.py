"""Trace context into headers and out of them (W3C `traceparent`, `tracestate`), over HTTP and Kafka alike.

Headers of foreign producers may hold anything: null, bytes that are no text, a version we do not know, two of a
kind. None of it is an error; it means "no parent". Refuses to know spans' names and who sends what.
"""

from collections.abc import Iterable

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.contracts.headers import TRACEPARENT, TRACESTATE

_PROPAGATOR = TraceContextTextMapPropagator()
_LARGEST_HEADER = 8_192


def inject(context: Context | None = None) -> tuple[tuple[str, str], ...]:
    """The headers that carry `context` (the current one by default); empty outside of any trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=context)
    return tuple(carrier.items())


def extract(headers: Iterable[tuple[str, str | bytes | None]]) -> Context:
    """The remote parent among the headers. Without a valid one: an empty context, so that a span made with it is
    the root of a new trace, never a child of whatever happens to be current in a poll loop.

    Of several headers of a name the last one counts, as Kafka's own clients read them.
    """
    carrier: dict[str, str] = {}
    for name, value in headers:
        lowered = name.lower()
        if lowered in (TRACEPARENT, TRACESTATE):
            text = _text(value)
            if text is not None:
                carrier[lowered] = text
    if TRACEPARENT not in carrier:
        return Context()
    return _PROPAGATOR.extract(carrier, context=Context())


def _text(value: str | bytes | None) -> str | None:
    if value is None or len(value) > _LARGEST_HEADER:
        return None
    if isinstance(value, str):
        return value if value.isascii() else None
    try:
        return bytes(value).decode("ascii")
    except UnicodeDecodeError:
        return None
