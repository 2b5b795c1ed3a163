"""The table of a run: one row per kind of fault. Numbers in, text out."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.asks import Ask
from tests.chaos.faults import Injection
from tests.chaos.oracle import Verdict
from tests.chaos.schedule import Fault

PAUSE_SECONDS = 0.5
"""A silence longer than this between two tokens is a pause that somebody may notice."""
_AFTERMATH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    fault: str
    injected: int
    in_flight: int
    pauses: list[float]
    waits: list[float]
    """For the first token, of streams that were asked while the fault lasted or shortly before."""


def pauses_of(injections: Sequence[Injection], asks: Sequence[Ask]) -> list[float]:
    """The pauses that streams had while these faults (or their first second after) lasted; longest per stream."""
    found = []
    for ask in asks:
        pauses = [gap for gap in ask.gaps() if gap[1] - gap[0] >= PAUSE_SECONDS and _is_hit(gap, injections)]
        if pauses:
            found.append(max(until - since for since, until in pauses))
    return sorted(found)


def waits_of(injections: Sequence[Injection], asks: Sequence[Ask]) -> list[float]:
    waits = [ask.wait for ask in asks if ask.wait is not None]
    return sorted(until - since for since, until in waits if _is_hit((since, until), injections))


def _is_hit(gap: tuple[float, float], injections: Sequence[Injection]) -> bool:
    return any(gap[0] < i.ended_at + _AFTERMATH_SECONDS and gap[1] > i.started_at for i in injections)


def rows(injections: Sequence[Injection], asks: Sequence[Ask]) -> list[Row]:
    kinds = [fault for fault in Fault if any(injection.fault is fault for injection in injections)]
    table = []
    for fault in kinds:
        struck = [injection for injection in injections if injection.fault is fault]
        in_flight = sum(injection.num_in_flight for injection in struck)
        table.append(Row(fault.value, len(struck), in_flight, pauses_of(struck, asks), waits_of(struck, asks)))
    return table


def quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def render(table: Sequence[Row]) -> str:
    """Pauses overlap with those of a neighbouring fault where faults overlap: each row counts what it saw."""
    lines = [
        "| fault | injected | in flight | streams paused > 0.5 s | pause p50 / p99 / max (s) "
        "| first token p50 / p99 / max (s) |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.fault} | {row.injected} | {row.in_flight} | {len(row.pauses)} "
        f"| {_times(row.pauses)} | {_times(row.waits)} |"
        for row in table
    ]
    return "\n".join(lines)


def _times(values: Sequence[float]) -> str:
    return " / ".join(f"{quantile(values, share):.1f}" for share in (0.5, 0.99, 1.0)) if values else "-"


def summary(verdict: Verdict, asks: Sequence[Ask], *, lag: int | None, num_left_running: int | None) -> str:
    accepted = [ask for ask in asks if ask.is_accepted]
    tokens = sum(ask.num_tokens * ask.num_choices for ask in accepted)
    return "\n".join(
        [
            f"accepted {len(accepted)} of {len(asks)} asked, {tokens} tokens, "
            f"{sum(ask.num_reconnects for ask in asks)} reconnects",
            f"lost {len(verdict.lost)}, duplicated tokens {verdict.num_duplicated()}, "
            f"terminals with differing content {len(verdict.differing)}, wrong terminals {len(verdict.wrong)}, "
            f"broken streams {len(verdict.streams)}, unasked {len(verdict.unasked)}",
            f"terminals repeated with the same bytes {verdict.num_repeats}, lag at the end {lag}, "
            f"left running {num_left_running}",
        ]
    )
