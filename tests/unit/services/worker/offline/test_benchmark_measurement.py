import json

import pytest

from services.worker.engine.events import EngineReady, RequestRejected, StepResult, Submit
from services.worker.null_engine import NullEngine, NullEngineConfig
from services.worker.offline.benchmark_measurement import BatchResult, measure_batch


class _Clock:
    """Two seconds pass between any two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


def null_engine() -> NullEngine:
    return NullEngine(NullEngineConfig(vocabulary=tuple(range(1000))))


def measure(batch_size: int, engine: NullEngine | None = None, **changes: int) -> BatchResult:
    sizes = {"prompt_tokens": 10, "output_tokens": 5, "repeats": 1, **changes}
    return measure_batch(engine or null_engine(), batch_size, clock=_Clock(), **sizes)


def test_all_output_tokens_count_over_the_whole_run() -> None:
    result = measure(4)
    assert result.num_generated_tokens == 20
    assert result.output_tokens_per_second == 10.0


def test_the_shared_prompt_is_answered_the_same_in_every_batch() -> None:
    alone, together = measure(1), measure(7)
    assert len(alone.first_output) == 5
    assert alone.first_output == together.first_output


def test_repeats_have_other_prompts() -> None:
    engine = null_engine()
    seen = []
    submit = engine.submit
    engine.submit = lambda given: (seen.append(given.choices[0].prompt_token_ids), submit(given))  # type: ignore
    measure(2, engine, repeats=3)
    assert len({tuple(prompt) for prompt in seen}) == 6
    assert all(len(prompt) == 10 and min(prompt) >= 100 for prompt in seen)


def test_steps_with_prompts_and_without_are_told_apart() -> None:
    result = measure(3)
    assert result.prompt_tokens_per_second > 0
    assert result.decode_tokens_per_second > 0
    assert result.decode_step_seconds == pytest.approx(3 / result.decode_tokens_per_second)


class _FullEngine(NullEngine):
    @property
    def has_work(self) -> bool:
        return True

    def step(self) -> StepResult:
        refused = RequestRejected(request_id="benchmark-0", code="queue_full", message="no room")
        return StepResult(tokens=[], timings=[], rejected=[refused], statistics=super().step().statistics)


def test_a_refused_batch_is_an_error_and_no_measurement() -> None:
    with pytest.raises(ValueError, match="no room"):
        measure(1, _FullEngine(NullEngineConfig(vocabulary=(1,))))


def test_the_end_of_text_does_not_shorten_the_work() -> None:
    submitted: list[Submit] = []
    engine = null_engine()
    submit = engine.submit
    engine.submit = lambda given: (submitted.append(given), submit(given))  # type: ignore
    measure(1, engine)
    assert submitted[0].sampling.ignore_eos
    assert submitted[0].sampling.temperature == 0.0
    assert json.dumps(submitted[0].eos_token_ids) == "[]"


def test_the_engines_vocabulary_bounds_the_prompts() -> None:
    engine = NullEngine(NullEngineConfig(vocabulary=(0, 1, 2)))
    assert isinstance(engine.ready, EngineReady)
    assert measure(1, engine).num_generated_tokens == 5
