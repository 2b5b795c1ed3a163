"""The table of a run: one row per kind of fault. Numbers in, text out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.asks import Ask
from tests.chaos.faults import Injection
from tests.chaos.oracle import Verdict
from tests.chaos.schedule import Fault

PAUSE_SECONDS = 0.5
"""A silence longer than this between two tokens is a pause that somebody may notice."""
_AFTERMATH_SECONDS = 1.0
_RECOVERY_SECONDS = 10.0
"""So long after a fault its victim may still be starting: whatever strikes then does not strike alone."""
_OTHER_CONTENT = ("differing", "wrong", "stream")


@dataclass(frozen=True, slots=True)
class Row:
    fault: str
    injected: int
    in_flight: int
    lost: int
    duplicated: int
    differing: int
    """Of requests that were open during the fault: without a terminal, with a repeated token, with two contents."""
    pauses: list[float]
    alone: list[float]
    """Of the pauses, those of a single fault, with no other since ten seconds before: its own and nobody else's."""
    waits: list[float]
    """For the first token, of streams that were asked while the fault lasted or shortly before."""


def pauses_of(
    injections: Sequence[Injection], asks: Sequence[Ask], *, alone_among: Sequence[Injection] | None = None
) -> list[float]:
    """The pauses that streams had while these faults (or their first second after) lasted; longest per stream.

    `alone_among`: everything that struck in the run; then only pauses that a single fault can have made.
    """
    found = []
    for ask in asks:
        gaps = [gap for gap in ask.gaps() if gap[1] - gap[0] >= PAUSE_SECONDS and _is_hit(gap, injections)]
        if alone_among is not None:
            gaps = [gap for gap in gaps if sum(_may_have_made(gap, other) for other in alone_among) == 1]
        if gaps:
            found.append(max(until - since for since, until in gaps))
    return sorted(found)


def _may_have_made(gap: tuple[float, float], injection: Injection) -> bool:
    return gap[0] < injection.ended_at + _RECOVERY_SECONDS and gap[1] > injection.started_at


def waits_of(injections: Sequence[Injection], asks: Sequence[Ask]) -> list[float]:
    waits = [ask.wait for ask in asks if ask.wait is not None]
    return sorted(until - since for since, until in waits if _is_hit((since, until), injections))


def _is_hit(gap: tuple[float, float], injections: Sequence[Injection]) -> bool:
    return any(gap[0] < i.ended_at + _AFTERMATH_SECONDS and gap[1] > i.started_at for i in injections)


def _num_convicted(kinds: Sequence[str], injections: Sequence[Injection], verdict: Verdict) -> int:
    """A request counts under every fault during which it was open."""
    guilty = {ask for kind, ask in verdict.convicted if kind in kinds}
    return sum(_is_hit((ask.asked_at, ask.ended_at or math.inf), injections) for ask in guilty)


def rows(injections: Sequence[Injection], asks: Sequence[Ask], verdict: Verdict) -> list[Row]:
    kinds = [fault for fault in Fault if any(injection.fault is fault for injection in injections)]
    table = []
    for fault in kinds:
        struck = [injection for injection in injections if injection.fault is fault]
        in_flight = sum(injection.num_in_flight for injection in struck)
        convicted = [_num_convicted(kinds, struck, verdict) for kinds in (("lost",), ("duplicated",), _OTHER_CONTENT)]
        times = pauses_of(struck, asks), pauses_of(struck, asks, alone_among=injections), waits_of(struck, asks)
        table.append(Row(fault.value, len(struck), in_flight, *convicted, *times))
    return table


def quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def render(table: Sequence[Row]) -> str:
    """Pauses overlap with those of a neighbouring fault where faults overlap: each row counts what it saw."""
    lines = [
        "| fault | injected | in flight | lost | duplicated | other content | streams paused > 0.5 s "
        "| pause p50 / p99 / max (s) | of these by this fault alone | first token p50 / p99 / max (s) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.fault} | {row.injected} | {row.in_flight} | {row.lost} | {row.duplicated} | {row.differing} "
        f"| {len(row.pauses)} "
        f"| {_times(row.pauses)} | {_alone(row.alone)} | {_times(row.waits)} |"
        for row in table
    ]
    return "\n".join(lines)


def _alone(values: Sequence[float]) -> str:
    return f"{len(values)}: {_times(values)}" if values else "-"


def _times(values: Sequence[float]) -> str:
    return " / ".join(f"{quantile(values, share):.1f}" for share in (0.5, 0.99, 1.0)) if values else "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What the stack still has when everything is answered; None: nobody could say."""

    lag: int | None
    requests: int | None
    kv_blocks: int | None

    @property
    def is_nothing(self) -> bool:
        return (self.lag, self.requests, self.kv_blocks) == (0, 0, 0)


def summary(verdict: Verdict, asks: Sequence[Ask], leftovers: Leftovers) -> str:
    accepted = [ask for ask in asks if ask.is_accepted]
    tokens = sum(ask.wanted.completion_tokens for ask in accepted)
    return "\n".join(
        [
            f"accepted {len(accepted)} of {len(asks)} asked, {tokens} tokens, "
            f"{sum(ask.num_reconnects for ask in asks)} reconnects, "
            f"{verdict.num_early} ended early as asked for",
            f"lost {len(verdict.lost)}, duplicated tokens {verdict.num_duplicated()}, "
            f"terminals with differing content {len(verdict.differing)}, wrong terminals {len(verdict.wrong)}, "
            f"broken streams {len(verdict.streams)}, out of order {len(verdict.out_of_order)}, "
            f"unasked {len(verdict.unasked)}",
            f"terminals repeated with the same bytes {verdict.num_repeats}; at the end: lag {leftovers.lag}, "
            f"requests left running {leftovers.requests}, KV blocks leaked {leftovers.kv_blocks}",
        ]
    )
