"""How fast several engines run the same load: they take turns, in another order every round, and only ratios count."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import ChoiceStart, Submit
from shared.contracts.sampling import SamplingParameters

_PROMPT_TOKENS, _OUTPUT_TOKENS = 32, 25
_PREFILL_TOKENS = 512
_BLOCK_TOKENS = 16
_LOWEST_TOKEN_ID = 100
BATCHES = (1, 8, 32)
PREFILL = "prefill"


class Contender(Protocol):
    def seconds(self, prompts: list[list[int]], num_tokens: int) -> tuple[float, float]:
        """To read all prompts, first tokens included, and of the `num_tokens` - 1 steps after that."""

    def close(self) -> None: ...


class OwnEngine:
    """Greedy, without a prefix cache. `counts_processor_time`: of this process, which has to have one thread then."""

    def __init__(self, model: Path, quantization: str, *, counts_processor_time: bool = False) -> None:
        self._now = time.process_time if counts_processor_time else time.perf_counter
        blocks = -(-(_PROMPT_TOKENS + _OUTPUT_TOKENS) // _BLOCK_TOKENS) * max(BATCHES)
        self._engine = Engine.load(
            EngineConfig(
                model=model,
                quantization=quantization,
                block_size_tokens=_BLOCK_TOKENS,
                num_kv_blocks=max(blocks, _PREFILL_TOKENS // _BLOCK_TOKENS) + max(BATCHES) + 8,
                max_model_tokens=_PREFILL_TOKENS + _BLOCK_TOKENS,
                max_running_sequences=max(BATCHES),
                max_waiting_sequences=max(BATCHES),
                max_tokens_per_step=_PREFILL_TOKENS,
                enable_prefix_cache=False,
            )
        )

    def seconds(self, prompts: list[list[int]], num_tokens: int) -> tuple[float, float]:
        sampling = SamplingParameters(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        for index, prompt in enumerate(prompts):
            start = ChoiceStart(index=0, prompt_token_ids=prompt)
            order = (0, 0, 0, index)
            self._engine.submit(
                Submit(request_id=f"{index}", choices=[start], sampling=sampling, eos_token_ids=[], order=order)
            )
        # A step that reads any prompt counts as reading, as in benchmark_measurement.py.
        reading = decoding = 0.0
        num_steps = 0
        while self._engine.has_work:
            begun = self._now()
            step = self._engine.step().statistics
            seconds = self._now() - begun
            if step.num_prefill_tokens:
                reading += seconds
            else:
                decoding, num_steps = decoding + seconds, num_steps + 1
        return reading, decoding * (num_tokens - 1) / max(num_steps, 1)

    def close(self) -> None:
        """Nothing outlives the object."""


@dataclass(slots=True, kw_only=True)
class Rates:
    """Tokens per second of one contender, by batch size or `prefill`, one for each round."""

    name: str
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, figure: str) -> float:
        return statistics.median(self.rounds[figure])

    def spread(self, figure: str) -> tuple[float, float]:
        return min(self.rounds[figure]), max(self.rounds[figure])

    def ratio(self, other: Rates, figure: str) -> float:
        """Median over rounds of this one to `other` in the same round: a busy minute slows both."""
        pairs = zip(self.rounds[figure], other.rounds[figure], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


def figures() -> list[str]:
    return [*map(str, BATCHES), PREFILL]


Round = dict[str, dict[str, float]]
"""By contender and figure: tokens per second."""


def run_round(contenders: Sequence[tuple[str, Contender]], *, number: int, vocabulary_size: int) -> Round:
    """Everybody's turn, figure by figure, in an order that differs between rounds."""
    turn = number % len(contenders)
    rates: Round = {name: {} for name, _ in contenders}
    for figure in figures():
        for name, contender in [*contenders[turn:], *contenders[:turn]]:
            rates[name][figure] = _rate(contender, figure, vocabulary_size, seed=number)
    return rates


def warm_up(contenders: Sequence[tuple[str, Contender]], *, vocabulary_size: int) -> None:
    """Once before the first round, untimed."""
    for _, contender in contenders:
        contender.seconds(_prompts(1, _PROMPT_TOKENS, vocabulary_size, seed=0), 3)


def rates_of(rounds: Sequence[Round]) -> list[Rates]:
    """In the order of the first round."""
    return [
        Rates(name=name, rounds={figure: [one[name][figure] for one in rounds] for figure in figures()})
        for name in rounds[0]
    ]


def _rate(contender: Contender, figure: str, vocabulary_size: int, *, seed: int) -> float:
    if figure == PREFILL:
        reading, _ = contender.seconds(_prompts(1, _PREFILL_TOKENS, vocabulary_size, seed=seed), 1)
        return _PREFILL_TOKENS / reading
    size = int(figure)
    _, decoding = contender.seconds(_prompts(size, _PROMPT_TOKENS, vocabulary_size, seed=seed), _OUTPUT_TOKENS)
    return size * (_OUTPUT_TOKENS - 1) / decoding


def _prompts(count: int, length: int, vocabulary_size: int, *, seed: int) -> list[list[int]]:
    """The same for everybody."""
    draw = random.Random(f"{seed}:{length}")
    lowest = min(_LOWEST_TOKEN_ID, vocabulary_size - 1)
    return [[draw.randrange(lowest, vocabulary_size) for _ in range(length)] for _ in range(count)]
