"""One engine's answers to one set of prompts, with and without drafts, and what the cost model makes of them.

Source of the model: Leviathan, Kalman and Matias 2023, 3.1 to 3.3: with acceptance a and k tokens drafted a step brings
(1 - a^(k+1)) / (1 - a) tokens and costs k drafts and one verification.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.worker.engine.engine import Engine
from services.worker.engine.events import ChoiceStart, Submit
from shared.contracts.sampling import SamplingParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Decode steps only. `judged`: drafted tokens that the target had its say about: those behind a rejected one are
    nobody's."""

    tokens: dict[str, list[int]]
    num_decoded: int
    decode_seconds: float
    draft_seconds: float
    num_sequence_steps: int
    num_steps: int
    num_drafted: int
    num_accepted: int
    num_judged: int

    @property
    def tokens_per_second(self) -> float:
        return self.num_decoded / self.decode_seconds if self.decode_seconds else 0.0

    @property
    def acceptance(self) -> float:
        return self.num_accepted / self.num_judged if self.num_judged else 0.0

    @property
    def tokens_per_target_step(self) -> float:
        """Of one sequence."""
        return self.num_decoded / self.num_sequence_steps if self.num_sequence_steps else 0.0

    @property
    def step_seconds(self) -> float:
        return self.decode_seconds / self.num_steps if self.num_steps else 0.0

    @property
    def draft_step_seconds(self) -> float:
        return self.draft_seconds / self.num_steps if self.num_steps else 0.0


def answer(
    engine: Engine,
    prompts: Mapping[int, list[int]],
    *,
    batch: int,
    temperature: float,
    output_tokens: int,
    eos_token_ids: list[int],
    method: str,
    clock: Callable[[], float] = time.perf_counter,
) -> Run:
    """`prompts` by number, `batch` of them at once, the next one when one has ended. `clock` is the engine's.

    An answer ends as it would for its reader: behind an end token the model talks to itself, and what it says there is
    no task.

    Raises ValueError for what the engine refuses.
    """
    tokens: dict[str, list[int]] = {str(number): [] for number in prompts}
    waiting = [
        Submit(
            request_id=str(number),
            choices=[ChoiceStart(index=0, prompt_token_ids=prompt, seed=1000 + number)],
            sampling=SamplingParameters(temperature=temperature, max_tokens=output_tokens, seed=1000 + number),
            eos_token_ids=eos_token_ids,
            speculation=method,
        )
        for number, prompt in reversed(list(prompts.items()))
    ]
    decoded = drafted = accepted = judged = sequence_steps = steps = running = 0
    decode_seconds = draft_seconds = 0.0
    while waiting or running:
        while waiting and running < batch:
            engine.submit(waiting.pop())
            running += 1
        began = clock()
        result = engine.step()
        seconds = clock() - began
        for refused in result.rejected:
            raise ValueError(f"the engine refuses the benchmark's request: {refused.message}")
        is_decode = result.statistics.num_prefill_tokens == 0
        for event in result.tokens:
            running -= event.finish_reason is not None
            tokens[event.request_id].extend(event.token_ids)
            if is_decode:
                decoded += len(event.token_ids)
                sequence_steps += 1
                length = len(event.draft_token_ids or [])
                drafted += length
                accepted += event.num_accepted
                judged += min(event.num_accepted + 1, length)
        if is_decode and result.tokens:
            steps += 1
            decode_seconds += seconds
            draft_seconds += result.statistics.draft_seconds
    return Run(
        tokens=tokens,
        num_decoded=decoded,
        decode_seconds=decode_seconds,
        draft_seconds=draft_seconds,
        num_sequence_steps=sequence_steps,
        num_steps=steps,
        num_drafted=drafted,
        num_accepted=accepted,
        num_judged=judged,
    )


def together(runs: Sequence[Run]) -> Run:
    """Several runs as one. Of prompts that were answered more than once, the last answer."""
    return Run(
        tokens={name: tokens for run in runs for name, tokens in run.tokens.items()},
        num_decoded=sum(run.num_decoded for run in runs),
        decode_seconds=sum(run.decode_seconds for run in runs),
        draft_seconds=sum(run.draft_seconds for run in runs),
        num_sequence_steps=sum(run.num_sequence_steps for run in runs),
        num_steps=sum(run.num_steps for run in runs),
        num_drafted=sum(run.num_drafted for run in runs),
        num_accepted=sum(run.num_accepted for run in runs),
        num_judged=sum(run.num_judged for run in runs),
    )


def expected_tokens(acceptance: float, length: int) -> float:
    """(1 - a^(k+1)) / (1 - a)."""
    return sum(acceptance**place for place in range(length + 1))


def predicted_speed_up(run: Run, without: Run, length: int) -> float:
    """From acceptance, draft time and verification time alone."""
    return expected_tokens(run.acceptance, length) * without.step_seconds / run.step_seconds if run.num_steps else 0.0


def equal_share(run: Run, without: Run) -> float:
    """Of the tokens that are what they are without drafts, up to the first that differs in each sequence."""
    same = total = 0
    for name, expected in without.tokens.items():
        found = run.tokens[name]
        total += len(expected)
        same += next(
            (place for place, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other),
            len(expected),
        )
    return same / total if total else 1.0
