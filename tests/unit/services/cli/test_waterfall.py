import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from services.cli.embedded.stored_span import StoredSpan
from services.cli.waterfall import BAR_CELLS, bar, format_ms, waterfall, waterfall_rows

MS = 1_000_000


def span(
    name: str, parent: str = "", start: int = 0, took: int = 10, service: str = "worker", **changes: object
) -> StoredSpan:
    values = {
        "trace_id": "t" * 32,
        "span_id": name,
        "parent_id": parent,
        "name": name,
        "service": service,
        "instance": service,
        "kind": "internal",
        "start_ns": start * MS,
        "end_ns": (start + took) * MS,
    }
    return StoredSpan(**(values | changes))  # type: ignore[arg-type]


def drawn(*spans: StoredSpan, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(waterfall(spans))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def outline(*spans: StoredSpan) -> list[tuple[str, int]]:
    return [(row.span.name, row.depth) for row in waterfall_rows(spans)]


def test_children_stand_below_their_parent_in_order_of_start() -> None:
    spans = (span("b", "root", 5), span("root"), span("leaf", "a", 3), span("a", "root", 2))
    assert outline(*spans) == [("root", 0), ("a", 1), ("leaf", 2), ("b", 1)]


def test_a_span_whose_parent_is_missing_is_a_root_of_its_own() -> None:
    assert outline(span("orphan", "lost", 4), span("root", "")) == [("root", 0), ("orphan", 0)]


def test_a_parent_that_starts_with_its_child_comes_first() -> None:
    assert outline(span("z", "", 0, 10), span("a", "", 0, 3)) == [("z", 0), ("a", 0)]


def test_a_cycle_appears_once_and_ends() -> None:
    found = outline(span("a", "b"), span("b", "a"), span("self", "self"))
    assert sorted(name for name, _ in found) == ["a", "b", "self"]


def test_a_very_deep_trace_is_drawn() -> None:
    spans = [span("0"), *(span(str(n), str(n - 1), n) for n in range(1, 3_000))]
    assert waterfall_rows(spans)[-1].depth == 2_999


def test_offsets_count_from_the_first_span() -> None:
    rows = waterfall_rows([span("root", "", 100, 50), span("a", "root", 120, 5)])
    assert [(row.offset_ns, row.duration_ns) for row in rows] == [(0, 50 * MS), (20 * MS, 5 * MS)]


def test_nothing_is_drawn_as_such() -> None:
    assert drawn() == ["no spans"]


def test_every_line_fits_into_a_hundred_columns_and_shows_its_bar() -> None:
    spans = [
        span("POST /v1/chat/completions", "", 0, 812, "gateway"),
        span("process inference.requests", "POST /v1/chat/completions", 40, 760,
             attributes={"penstock.worker.id": "default-0", "gen_ai.usage.output_tokens": 64}),
        span("a name that is much too long to be drawn as it is", "process inference.requests", 50, 1),
    ]  # fmt: skip
    lines = drawn(*spans)
    assert all(len(line) <= 100 for line in lines)
    assert "812.0 ms" in lines[0]
    assert "2 processes" in lines[0]
    assert "worker default-0" in lines[3]
    assert all("█" in line or "▏" in line for line in lines[2:])


def test_an_error_is_told() -> None:
    lines = drawn(span("decode", status="error", status_message="engine died"))
    assert "engine died" in lines[2]


def test_an_error_without_words_is_told_by_its_type() -> None:
    lines = drawn(span("decode", status="error", attributes={"error.type": "engine_failed"}))
    assert "engine_failed" in lines[2]


def test_after_a_failover_both_workers_are_named() -> None:
    spans = [
        span("a", instance="i0", attributes={"penstock.worker.id": "w-0"}),
        span("b", instance="i1", start=5, attributes={"penstock.worker.id": "w-1"}),
    ]
    text = "\n".join(drawn(*spans))
    assert "worker w-0" in text
    assert "worker w-1" in text


@pytest.mark.parametrize(
    ("offset", "took", "total", "drawing"),
    [
        (0, 8, 8, "████████"),
        (4, 4, 8, "    ████"),
        (0, 1, 16, "▌"),
        (7, 0, 8, "       ▏"),
        (8, 0, 8, "       ▏"),
        (0, 0, 0, "▏"),
    ],
)
def test_bars_are_to_scale(offset: int, took: int, total: int, drawing: str) -> None:
    assert bar(offset, took, total, 8) == drawing


@given(st.integers(1, 10**15), st.data())
def test_no_bar_is_empty_or_wider_than_its_column(total: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, total))
    took = data.draw(st.integers(0, total - offset))
    drawing = bar(offset, took, total)
    assert 1 <= len(drawing) <= BAR_CELLS
    assert drawing.strip()


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0.00"), (450_000, "0.45"), (1_250_000, "1.2"), (812 * MS, "812.0"), (12_340 * MS, "12.3 s")],
)
def test_durations_keep_two_or_three_digits(nanoseconds: int, text: str) -> None:
    assert format_ms(nanoseconds) == text
