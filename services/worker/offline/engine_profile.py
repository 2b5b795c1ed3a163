"""Where a step's time goes: the model, and by name what is not the model.

Wraps an engine's own parts for as long as it is entered. Processor time, not wall time: a busy machine changes little.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from services.worker.engine.engine import Engine
from services.worker.engine.execution import model_runner

MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRow:
    """One part of a step; parts exclude what they call of the others."""

    part: str
    milliseconds_per_step: float
    share: float

    @property
    def is_model(self) -> bool:
        return self.part.partition(":")[0] == MODEL


class StepProfile:
    """Times parts that call each other: each second counts for the innermost."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0
        self._num_steps = 0

    @contextmanager
    def attached(self, engine: Engine) -> Iterator[None]:
        decoder = engine._runner._decoder
        parts: list[tuple[Any, str, str]] = [
            (engine, "step", "reports and statistics"),
            (engine._scheduler, "schedule", "scheduling"),
            (engine._scheduler, "complete", "bookkeeping"),
            (engine._speculation, "draft", "drafts"),
            (engine._speculation, "learn", "drafts"),
            (engine._runner, "launch", "launching"),
            (model_runner.PendingStep, "read", "reading tokens"),
            (model_runner, "prepare_inputs", "inputs"),
            (model_runner, "sample", "sampling"),
            (decoder, "forward", MODEL),
            (decoder, "logits", MODEL),
            (decoder, "largest", MODEL),
            (model_runner, "take_largest", "sampling"),
            (model_runner, "wants_only_the_largest", "sampling"),
        ]
        native = getattr(decoder, "_native", None)
        with ExitStack() as stack:
            inside = stack.enter_context(native.timed()) if native is not None else {}
            for owner, name, part in parts:
                stack.enter_context(self._wrapped(owner, name, part))
            yield
        self._name_inside(inside)

    def _name_inside(self, inside: dict[str, float]) -> None:
        """Parts of the native step come out of what is known as the model; the head and the embedding stay in it."""
        if inside and MODEL in self._seconds:
            self._seconds[MODEL] -= sum(inside.values())
            self._seconds[f"{MODEL}: head, embedding"] = self._seconds.pop(MODEL)
            self._seconds.update({f"{MODEL}: {part}": seconds for part, seconds in inside.items()})

    @contextmanager
    def _wrapped(self, owner: Any, name: str, part: str) -> Iterator[None]:
        original = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            self._enter(part)
            try:
                return original(*arguments, **options)
            finally:
                self._leave()

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, original)

    def add(self, seconds: dict[str, float]) -> None:
        """What was measured elsewhere, by part, of all steps together."""
        for part, more in seconds.items():
            self._seconds[part] = self._seconds.get(part, 0.0) + more

    def _enter(self, part: str) -> None:
        self._charge()
        self._num_steps += not self._open
        self._open.append(part)

    def _leave(self) -> None:
        self._charge()
        self._open.pop()

    def _charge(self) -> None:
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    def rows(self) -> tuple[ProfileRow, ...]:
        """The largest first. Empty when nothing was stepped."""
        total = sum(self._seconds.values())
        return tuple(
            ProfileRow(part=part, milliseconds_per_step=1e3 * seconds / self._num_steps, share=seconds / total)
            for part, seconds in sorted(self._seconds.items(), key=lambda item: -item[1])
            if total > 0
        )
