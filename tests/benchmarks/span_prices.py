"""What a span costs here and by the SDK's own way: processor time, in turns, in one process.

python -m tests.benchmarks.span_prices
"""

import statistics
import sys
import time
from collections.abc import Callable

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import set_span_in_context

from shared.telemetry import spans
from shared.telemetry.otlp_encoding import encode_export

_ROUNDS, _SPANS = 15, 600
_SCOPE = InstrumentationScope("penstock", "1")


class Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def attributes(number: int) -> spans.Attributes:
    """A small span's and a large one's in turn, as a worker's are."""
    small = {spans.REQUEST_ID: f"{number // 5:032x}"}
    if number % 5:
        return small
    where = spans.messaging_attributes("process", "inference.requests.default.interactive", partition=3, offset=number)
    return {**small, spans.POOL: "default", spans.LANE: "interactive", spans.TENANT: "default", **where}


def microseconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e6 / _SPANS


def main() -> None:
    kept, resource = Kept(), Resource.create({"service.name": "worker"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(kept)
    tracer = provider.get_tracer(_SCOPE.name, _SCOPE.version)
    spans.use_tracer(tracer)
    parent = set_span_in_context(tracer.start_span("process"))

    def opened() -> None:
        for number in range(_SPANS):
            tracer.start_span("decode", context=parent, attributes=attributes(number), start_time=1).end(end_time=2)

    def handed_over() -> None:
        for number in range(_SPANS):
            spans.record_span("decode", parent, 1, 2, attributes(number))

    ways: dict[str, Callable[[], object]] = {
        "opened and ended": opened,
        "handed over ready": handed_over,
        "encoded by the SDK": lambda: encode_spans(kept.spans).SerializeToString(),
        "encoded here": lambda: encode_export(kept.spans, resource, _SCOPE),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            if "encoded" not in name:
                kept.spans.clear()
            found[name].append(microseconds(way))
    median = {name: statistics.median(times) for name, times in found.items()}
    lines = [f"{name:<20} {value:6.1f} us a span" for name, value in median.items()]
    lines.append(f"handed over: {median['handed over ready'] / median['opened and ended']:.2f} of opened")
    lines.append(f"encoded here: {median['encoded here'] / median['encoded by the SDK']:.2f} of the SDK's")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
