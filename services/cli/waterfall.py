"""Draws the spans of one request as a waterfall for a terminal. Pure: spans in, a rich renderable out.

Spans may be incomplete: a parent that was never stored (a crashed worker's, a client's own) makes its children roots.
Refuses to know where spans come from.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.cli.embedded.stored_span import StoredSpan

BAR_CELLS = 20
_SERVICE_STYLES = {"gateway": "cyan", "worker": "green", "supervisor": "magenta"}
WORKER_ID = "penstock.worker.id"
_NOTABLE = (
    ("penstock.outcome", ""),
    ("penstock.attempt", "attempt "),
    ("gen_ai.usage.output_tokens", "tokens "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaterfallRow:
    """One line: how deep the span lies in its tree, and its share of the whole in nanoseconds from the start."""

    span: StoredSpan
    depth: int
    offset_ns: int
    duration_ns: int


def waterfall_rows(spans: Sequence[StoredSpan]) -> list[WaterfallRow]:
    """Depth first, children by start. Spans of a cycle (a damaged trace) appear too, once each."""
    if not spans:
        return []
    by_id = {span.span_id: span for span in spans}
    children: dict[str, list[StoredSpan]] = defaultdict(list)
    roots = []
    for span in sorted(by_id.values(), key=_by_start):
        if span.parent_id in by_id and span.parent_id != span.span_id:
            children[span.parent_id].append(span)
        else:
            roots.append(span)
    started = min(span.start_ns for span in spans)
    placed: dict[str, int] = {}
    for root in [*roots, *sorted(by_id.values(), key=_by_start)]:
        for span, depth in _walk(root, children, placed):
            placed[span.span_id] = depth
    return [
        WaterfallRow(
            span=by_id[span_id],
            depth=depth,
            offset_ns=by_id[span_id].start_ns - started,
            duration_ns=max(0, by_id[span_id].end_ns - by_id[span_id].start_ns),
        )
        for span_id, depth in placed.items()
    ]


def _by_start(span: StoredSpan) -> tuple[int, int, str]:
    """A parent that starts with its child comes first: it ends later."""
    return (span.start_ns, -span.end_ns, span.span_id)


def _walk(
    root: StoredSpan, children: dict[str, list[StoredSpan]], placed: dict[str, int]
) -> Iterator[tuple[StoredSpan, int]]:
    """Iterative: a trace may be deeper than Python's stack. `placed` grows between the steps."""
    stack = [(root, 0)]
    while stack:
        span, depth = stack.pop()
        if span.span_id in placed:
            continue
        yield span, depth
        stack.extend((child, depth + 1) for child in reversed(children[span.span_id]))


def bar(offset_ns: int, duration_ns: int, total_ns: int, cells: int = BAR_CELLS) -> str:
    """Eighths of a cell at the right end, so that short spans keep their proportion; never empty."""
    if total_ns <= 0:
        return "▏"
    start = min(cells - 1, int(offset_ns * cells / total_ns))
    eighths = max(1, round(duration_ns * cells * 8 / total_ns))
    eighths = min(eighths, (cells - start) * 8)
    full, rest = divmod(eighths, 8)
    return " " * start + "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def format_ms(nanoseconds: int) -> str:
    milliseconds = nanoseconds / 1e6
    if milliseconds >= 10_000:
        return f"{milliseconds / 1_000:.1f} s"
    return f"{milliseconds:.1f}" if milliseconds >= 1 else f"{milliseconds:.2f}"


def _notes(span: StoredSpan) -> str:
    words = [f"{label}{span.attributes[key]}" for key, label in _NOTABLE if key in span.attributes]
    if span.status == "error":
        words.append(span.status_message or str(span.attributes.get("error.type", "error")))
    return ", ".join(words)


def waterfall(spans: Sequence[StoredSpan]) -> RenderableType:
    """A table of 100 columns at most, with a line above that says what the trace is."""
    rows = waterfall_rows(spans)
    if not rows:
        return Text("no spans", style="dim")
    total_ns = max(row.offset_ns + row.duration_ns for row in rows)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    processes = _process_names(spans)
    longest_name = min(16, max(map(len, ("service", *processes.values()))))
    table.add_column("service", no_wrap=True, min_width=longest_name, max_width=16)
    table.add_column("span", no_wrap=True, overflow="ellipsis", max_width=41)  # gives way on a narrow terminal
    table.add_column("at ms", justify="right", no_wrap=True, min_width=7)
    table.add_column("took", justify="right", no_wrap=True, min_width=6)
    table.add_column("", no_wrap=True, min_width=BAR_CELLS)
    for row in rows:
        table.add_row(*_cells(row, total_ns, processes))
    return Group(_title(rows, total_ns), table)


def _process_names(spans: Sequence[StoredSpan]) -> dict[str, str]:
    """A worker is called by its own name, so that a failover shows as two of them."""
    names = {span.instance: span.service for span in spans}
    for span in spans:
        if WORKER_ID in span.attributes:
            names[span.instance] = f"{span.service} {span.attributes[WORKER_ID]}"
    return names


def _cells(row: WaterfallRow, total_ns: int, processes: dict[str, str]) -> tuple[Text, ...]:
    span = row.span
    style = "red" if span.status == "error" else _SERVICE_STYLES.get(span.service, "blue")
    name = Text("  " * row.depth + span.name)
    notes = _notes(span)
    if notes:
        name.append(f"  {notes}", style="red" if span.status == "error" else "dim")
    return (
        Text(processes[span.instance], style=style),
        name,
        Text(format_ms(row.offset_ns), style="dim"),
        Text(format_ms(row.duration_ns)),
        Text(bar(row.offset_ns, row.duration_ns, total_ns), style=style),
    )


def _title(rows: Sequence[WaterfallRow], total_ns: int) -> Text:
    services = {(row.span.service, row.span.instance) for row in rows}
    first = rows[0].span
    size = f"  {len(rows)} spans, {len(services)} processes, {format_ms(total_ns).removesuffix(' s')}"
    unit = " s" if total_ns >= 10_000_000_000 else " ms"
    return Text.assemble(("trace ", "dim"), (first.trace_id, "bold"), size, unit)
