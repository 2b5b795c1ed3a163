"""Times of parts that call each other, on a clock that is set by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from services.worker.engine.execution import model_runner
from services.worker.offline.engine_profile import StepProfile


class Parts:
    """Shaped like an engine; each part takes its own seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._scheduler = SimpleNamespace(schedule=lambda: self.take(2), complete=lambda: self.take(1))
        self._speculation = SimpleNamespace(draft=lambda: self.take(0.25), learn=lambda: self.take(0.25))
        decoder = SimpleNamespace(forward=lambda: self.take(5), logits=lambda: self.take(1), largest=lambda: None)
        self._runner = SimpleNamespace(_decoder=decoder, launch=self.launch)

    def take(self, seconds: float) -> None:
        self.now += seconds

    def launch(self) -> None:
        self.take(0.125)
        self._runner._decoder.forward()
        self._runner._decoder.logits()

    def step(self) -> None:
        self.take(0.5)
        self._scheduler.schedule()
        self._speculation.draft()
        self._runner.launch()
        self._scheduler.complete()
        self._speculation.learn()
        self.take(0.5)


def test_every_second_counts_for_the_innermost_part() -> None:
    parts = Parts()
    profile = StepProfile(clock=lambda: parts.now)
    with profile.attached(parts):  # type: ignore[arg-type]
        parts.step()
        parts.take(100)  # between two steps: nobody's
        parts.step()
    found = {row.part: row.milliseconds_per_step for row in profile.rows()}
    assert found == {
        "model": 6000,
        "scheduling": 2000,
        "bookkeeping": 1000,
        "reports and statistics": 1000,
        "drafts": 500,
        "launching": 125,
    }
    assert profile.rows()[0].share == pytest.approx(6 / 10.625)
    assert [row.part for row in profile.rows() if row.is_model] == ["model"]


def test_what_was_measured_elsewhere_is_a_part_of_the_steps() -> None:
    parts = Parts()
    profile = StepProfile(clock=lambda: parts.now)
    with profile.attached(parts):  # type: ignore[arg-type]
        parts.step()
        parts.step()
    profile.add({"socket": 10.625 * 2})
    profile.add({"socket": 10.625 * 2})
    largest = profile.rows()[0]
    assert (largest.part, largest.is_model) == ("socket", False)
    assert largest.milliseconds_per_step == 21_250
    assert largest.share == pytest.approx(2 / 3)


def test_the_engine_is_left_as_it_was() -> None:
    parts = Parts()
    forward, sample = parts._runner._decoder.forward, model_runner.sample
    with StepProfile().attached(parts):  # type: ignore[arg-type]
        assert model_runner.sample is not sample
    assert parts._runner._decoder.forward is forward
    assert model_runner.sample is sample


def test_nothing_stepped_is_nothing_to_tell() -> None:
    assert StepProfile().rows() == ()


def test_parts_of_a_native_step_come_out_of_the_model() -> None:
    @contextmanager
    def timed() -> Iterator[dict[str, float]]:
        inside: dict[str, float] = {}
        yield inside
        inside.update({"norms": 1.0, "down": 3.0})

    parts = Parts()
    parts._runner._decoder._native = SimpleNamespace(timed=timed)
    profile = StepProfile(clock=lambda: parts.now)
    with profile.attached(parts):  # type: ignore[arg-type]
        parts.step()
    found = {row.part: row.milliseconds_per_step for row in profile.rows()}
    assert found["model: norms"] == 1000
    assert found["model: down"] == 3000
    assert found["model: head, embedding"] == 2000
    assert "model" not in found
    assert {row.part for row in profile.rows() if row.is_model} == {name for name in found if name.startswith("model")}
