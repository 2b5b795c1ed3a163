"""Requests as chats send them: Poisson arrivals, log-normal lengths; and what a user feels of the answers."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from tests.benchmarks.peers.rounds import percentile

# ShareGPT's means, as docs/benchmarks.md uses them for the KV memory: 161 tokens in, 338 out.
_PROMPT = (4.7, 0.9)
_ANSWER = (5.4, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """`prompt_tokens` in, `output_tokens` out, `seconds` after the start."""

    seconds: float
    prompt_tokens: int
    output_tokens: int


def plan(count: int, *, per_second: float, longest: int, seed: int = 5) -> list[Arrival]:
    draw, now, arrivals = random.Random(seed), 0.0, []
    for _ in range(count):
        now += draw.expovariate(per_second)
        lengths = [min(longest, max(4, int(draw.lognormvariate(*shape)))) for shape in (_PROMPT, _ANSWER)]
        arrivals.append(Arrival(seconds=now, prompt_tokens=lengths[0], output_tokens=lengths[1]))
    return arrivals


def felt(arrivals: list[Arrival], token_seconds: list[list[float]]) -> dict[str, float]:
    """token_seconds: of each request, when each of its tokens came, in seconds after the start."""
    first = [times[0] - arrival.seconds for arrival, times in zip(arrivals, token_seconds, strict=True)]
    gaps = [late - early for times in token_seconds for early, late in itertools.pairwise(times)]
    end = max(times[-1] for times in token_seconds)
    return {
        "output_tokens_per_second": sum(map(len, token_seconds)) / end,
        "first_token_p50_seconds": percentile(first, 0.5),
        "first_token_p99_seconds": percentile(first, 0.99),
        "gap_p50_seconds": percentile(gaps, 0.5),
        "gap_p99_seconds": percentile(gaps, 0.99),
    }
