"""What an overload run found: one point for each load, kept in a file if wanted, as figures and as a table.

Measures nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from services.cli.benchmarks.goals import Figure, percentile
from services.cli.benchmarks.open_loop import Sample
from services.cli.console import CommandFailed

_ENGINE = "engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The objectives, fixed beforehand: seconds to the first token, and to the last."""

    first_token_seconds: float = 2.0
    answer_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One load. Goodput a second; seconds of admitted requests' first token and of refusals; memory at its end.

    `gave_up`: callers whose patience was over. `tail_seconds`: from the last arrival to the last answer. Cores: how
    many the engine and everything else (load generator, Kafka, Redis, gateway, worker shell) used on average.
    """

    factor: float
    asked: int
    answered: int
    refused: int
    gave_up: int
    lost: int
    goodput: float
    first_token_p50: float
    first_token_p99: float
    refusal_p50: float
    refusal_p99: float
    resident_bytes: int
    tail_seconds: float
    engine_cores: float
    other_cores: float


def point_of(
    limits: Limits,
    factor: float,
    samples: list[Sample],
    *,
    seconds: float,
    took: float,
    resident_bytes: int,
    processor_seconds: Mapping[str, float],
) -> Point:
    """Goodput counts over the time until the last answer: who is answered late pays for it.

    Who gave up without a first token waited at least as long as that for one.
    """
    answered = [sample for sample in samples if sample.is_answered]
    refused = [sample.seconds for sample in samples if sample.status in (429, 503)]
    gave_up = [sample for sample in samples if sample.has_given_up]
    good = [
        sample
        for sample in answered
        if sample.first_seconds is not None
        and sample.first_seconds <= limits.first_token_seconds
        and sample.seconds <= limits.answer_seconds
    ]
    firsts = [sample.first_seconds for sample in answered if sample.first_seconds is not None]
    firsts += [sample.seconds if sample.first_seconds is None else sample.first_seconds for sample in gave_up]
    engine = processor_seconds.get(_ENGINE, 0.0)
    return Point(
        factor=factor,
        asked=len(samples),
        answered=len(answered),
        refused=len(refused),
        gave_up=len(gave_up),
        lost=len(samples) - len(answered) - len(refused) - len(gave_up),
        goodput=len(good) / took,
        first_token_p50=percentile(firsts, 0.5) if firsts else 0.0,
        first_token_p99=percentile(firsts, 0.99) if firsts else 0.0,
        refusal_p50=percentile(refused, 0.5) if refused else 0.0,
        refusal_p99=percentile(refused, 0.99) if refused else 0.0,
        resident_bytes=resident_bytes,
        tail_seconds=max(0.0, took - seconds),
        engine_cores=engine / took,
        other_cores=(sum(processor_seconds.values()) - engine) / took,
    )


class OverloadRecord:
    """The capacity and the points so far. With a file, a run in several parts ends in one table."""

    def __init__(self, identity: Mapping[str, object], file: Path | None = None) -> None:
        """Raises CommandFailed for a file of another load."""
        self._identity = dict(identity)
        self._file = file
        self.capacity = 0.0
        self.points: list[Point] = []
        self.recovered: Point | None = None
        if file is not None and file.exists():
            self._read(json.loads(file.read_text()), file)

    @property
    def factors(self) -> set[float]:
        return {point.factor for point in self.points}

    def measured_capacity(self, capacity: float) -> None:
        self.capacity = capacity
        self._write()

    def add(self, point: Point) -> None:
        self.points = sorted([*self.points, point], key=lambda known: known.factor)
        self._write()

    def recovered_with(self, point: Point) -> None:
        self.recovered = point
        self._write()

    def as_json(self) -> dict[str, Any]:
        return {
            "load": self._identity,
            "capacity": self.capacity,
            "points": [asdict(point) for point in self.points],
            "recovered": None if self.recovered is None else asdict(self.recovered),
        }

    def _read(self, found: dict[str, Any], file: Path) -> None:
        if found["load"] != self._identity:
            raise CommandFailed(f"{file} is of another load: {found['load']}", hint="name another file with --record")
        self.capacity = found["capacity"]
        self.points = [Point(**point) for point in found["points"]]
        self.recovered = None if found["recovered"] is None else Point(**found["recovered"])

    def _write(self) -> None:
        if self._file is not None:
            self._file.write_text(json.dumps(self.as_json(), indent=2) + "\n")


def figures_of(limits: Limits, record: OverloadRecord) -> list[Figure]:
    worst = max(record.points, key=lambda point: point.factor)
    best = max(point.goodput for point in record.points)
    refusals = [point.refusal_p99 for point in record.points if point.refused]
    beyond = [point for point in record.points if point.factor > 1]
    figures = [
        Figure(name="capacity_requests_per_second", value=record.capacity, unit="requests/s"),
        Figure(
            name="goodput_at_most_load_over_peak",
            value=worst.goodput / best if best else 0.0,
            unit="",
            goal=0.95,
            at_most=False,
        ),
        Figure(
            name="first_token_p99_s",
            value=max(point.first_token_p99 for point in record.points),
            unit="s",
            goal=limits.first_token_seconds,
        ),
        Figure(name="lost", value=sum(point.lost + point.gave_up for point in record.points), unit="requests", goal=0),
    ]
    if record.recovered is not None:
        figures += _recovery(limits, record.recovered)
    if refusals:
        figures.append(Figure(name="refusal_p99_ms", value=max(refusals) * 1e3, unit="ms", goal=20))
    if len(beyond) > 1:
        growth = beyond[-1].resident_bytes / beyond[0].resident_bytes
        figures.append(Figure(name="memory_growth_under_overload", value=growth, unit="x", goal=1.1))
    return figures


def _recovery(limits: Limits, after: Point) -> list[Figure]:
    first = after.first_token_p99
    return [
        Figure(name="recovered_refused", value=after.refused, unit="requests", goal=0),
        Figure(name="recovered_first_token_p99_s", value=first, unit="s", goal=limits.first_token_seconds),
    ]


def overload_table(record: OverloadRecord, *, title: str = "Overload") -> Table:
    """80 columns wide. Seconds to the first token of who was admitted, milliseconds until a refusal."""
    table = Table(
        title=f"{title}\nCapacity {record.capacity:.2f} requests/s; goodput a second; first token p50, p99 in s; "
        "refusal p50, p99 in ms; MiB; cores of the engine, of all others",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
    )
    columns = ("load", "asked", "done", "refused", "gave up", "lost", "good", "first", "refusal", "MiB", "cores")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for point in record.points:
        table.add_row(f"{point.factor}x", *_cells(point))
    if record.recovered is not None:
        table.add_row("after", *_cells(record.recovered))
    return table


def _cells(point: Point) -> tuple[str, ...]:
    return (
        *map(str, (point.asked, point.answered, point.refused, point.gave_up, point.lost)),
        f"{point.goodput:.2f}",
        f"{point.first_token_p50:.2f} {point.first_token_p99:.2f}",
        f"{point.refusal_p50 * 1e3:.0f} {point.refusal_p99 * 1e3:.0f}",
        f"{point.resident_bytes / 2**20:.0f}",
        f"{point.engine_cores:.1f} {point.other_cores:.1f}",
    )


def point_line(point: Point) -> str:
    """For whoever watches: one point, as soon as it is known."""
    names = ("asked", "answered", "refused", "gave up", "lost", "goodput/s", "first s", "refusal ms", "MiB", "cores")
    return f"{point.factor}x: " + "; ".join(f"{name} {cell}" for name, cell in zip(names, _cells(point), strict=True))
