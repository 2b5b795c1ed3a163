"""What tests of the engine share: sequences without a model, and an engine driven until it has nothing left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.worker.engine.events import (
    ChoiceStart,
    RequestRejected,
    RequestTimings,
    StepStatistics,
    Submit,
    TokensSampled,
)
from services.worker.engine.sequence import RequestProgress, Sequence
from shared.contracts.sampling import SamplingParameters

if TYPE_CHECKING:
    from services.worker.engine.engine import Engine


def make_sequence(
    token_ids: list[int],
    *,
    num_output_tokens: int = 0,
    max_output_tokens: int = 8,
    salt: str = "",
    seed: int = 0,
    choice: int = 0,
    order: tuple[int, int, int, int] = (0, 0, 0, 0),
    ending_token_ids: frozenset[int] = frozenset(),
    request: RequestProgress | None = None,
    **sampling: Any,
) -> Sequence:
    request = request or RequestProgress(
        request_id="request",
        sampling=SamplingParameters(**sampling),
        order=order,
        cache_salt=salt,
        ending_token_ids=ending_token_ids,
        submitted_ns=0,
    )
    sequence = Sequence(
        request=request,
        choice=choice,
        seed=seed,
        token_ids=list(token_ids),
        num_prompt_tokens=len(token_ids) - num_output_tokens,
        max_output_tokens=max_output_tokens,
    )
    request.sequences[choice] = sequence
    return sequence


def make_submit(
    request_id: str,
    prompt: list[int],
    *,
    n: int = 1,
    seed: int = 0,
    eos_token_ids: tuple[int, ...] = (),
    outputs: list[int] | None = None,
    cache_salt: str = "",
    order: tuple[int, int, int, int] = (0, 0, 0, 0),
    **sampling: Any,
) -> Submit:
    sampling = {"temperature": 0.0, "max_tokens": 16, **sampling}
    return Submit(
        request_id=request_id,
        choices=[
            ChoiceStart(index=index, prompt_token_ids=prompt, output_token_ids=list(outputs or []), seed=seed + index)
            for index in range(n)
        ],
        sampling=SamplingParameters(**sampling),
        eos_token_ids=list(eos_token_ids),
        cache_salt=cache_salt,
        order=order,
    )


@dataclass
class Told:
    """Everything an engine said, gathered by (request, choice)."""

    tokens: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    positions: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    events: list[TokensSampled] = field(default_factory=list)
    finish_reasons: dict[tuple[str, int], str] = field(default_factory=dict)
    rejected: dict[str, RequestRejected] = field(default_factory=dict)
    timings: dict[str, RequestTimings] = field(default_factory=dict)
    statistics: list[StepStatistics] = field(default_factory=list)

    def step(self, engine: Engine) -> None:
        """One step, with the books checked after it."""
        result = engine.step()
        engine.check_integrity()
        self.statistics.append(result.statistics)
        for event in result.tokens:
            key = (event.request_id, event.choice)
            self.events.append(event)
            self.tokens.setdefault(key, []).extend(event.token_ids)
            self.positions.setdefault(key, []).extend(range(event.position, event.position + len(event.token_ids)))
            if event.finish_reason is not None:
                assert key not in self.finish_reasons, "a choice ended twice"
                self.finish_reasons[key] = event.finish_reason
        self.rejected.update({rejection.request_id: rejection for rejection in result.rejected})
        self.timings.update({timing.request_id: timing for timing in result.timings})


def drive(engine: Engine, *submissions: Submit, max_steps: int = 2000) -> Told:
    """Submit everything at once and step until the engine is idle."""
    told = Told()
    for submission in submissions:
        engine.submit(submission)
    while engine.has_work:
        told.step(engine)
        assert len(told.statistics) < max_steps, "the engine does not come to an end"
    return told
