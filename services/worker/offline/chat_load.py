"""Requests as public chat logs have them: lengths and arrivals. Knows no engine.

Lengths are log-normal with the means that Kwon et al. 2023 (PagedAttention, 6.1) give for ShareGPT: 161 tokens in, 338
out. The spreads are ours: a standard deviation of the logarithm of 1.2 in and 1.0 out. Arrivals are Poisson.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

MEAN_PROMPT_TOKENS, PROMPT_SPREAD = 161, 1.2
MEAN_OUTPUT_TOKENS, OUTPUT_SPREAD = 338, 1.0
LONG_SHARE = 0.25
"""Of the mixed load: prompts of an eighth to three quarters of the context, as documents and long chats have them."""
NUM_SHARED_PROMPTS = 4
MOST_SHARED_TOKENS = 256

DISTRIBUTION = (
    f"log-normal, mean {MEAN_PROMPT_TOKENS} tokens in and {MEAN_OUTPUT_TOKENS} out (ShareGPT, Kwon et al. 2023),"
    f" spread {PROMPT_SPREAD} and {OUTPUT_SPREAD}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """`shared_prompt` names the system prompt that the first `num_shared_tokens` of the prompt are."""

    num_prompt_tokens: int
    num_output_tokens: int
    arrival_seconds: float = 0.0
    shared_prompt: int = 0
    num_shared_tokens: int = 0


def chat_requests(
    num_requests: int, *, context_tokens: int, per_second: float, seed: int, length_scale: float = 1.0
) -> list[LoadRequest]:
    """Independent users: exponential gaps, nothing shared. `length_scale` multiplies the mean lengths."""
    draw = random.Random(seed)
    requests, now = [], 0.0
    for _ in range(num_requests):
        now += draw.expovariate(per_second)
        prompt, output = _fit(_prompt_tokens(draw, length_scale), _output_tokens(draw, length_scale), context_tokens)
        requests.append(LoadRequest(num_prompt_tokens=prompt, num_output_tokens=output, arrival_seconds=now))
    return requests


def mixed_requests(*, context_tokens: int, seed: int) -> Iterator[LoadRequest]:
    """Without end: chats and long prompts, each behind one of a few system prompts."""
    draw = random.Random(seed)
    num_shared_tokens = min(MOST_SHARED_TOKENS, context_tokens // 8)
    while True:
        own = _prompt_tokens(draw)
        if draw.random() < LONG_SHARE:
            own = max(1, draw.randint(context_tokens // 8, context_tokens * 3 // 4))
        prompt, output = _fit(num_shared_tokens + own, _output_tokens(draw), context_tokens)
        yield LoadRequest(
            num_prompt_tokens=prompt,
            num_output_tokens=output,
            shared_prompt=draw.randrange(NUM_SHARED_PROMPTS),
            num_shared_tokens=min(num_shared_tokens, prompt),
        )


def _prompt_tokens(draw: random.Random, scale: float = 1.0) -> int:
    return _log_normal(draw, MEAN_PROMPT_TOKENS * scale, PROMPT_SPREAD)


def _output_tokens(draw: random.Random, scale: float = 1.0) -> int:
    return _log_normal(draw, MEAN_OUTPUT_TOKENS * scale, OUTPUT_SPREAD)


def _log_normal(draw: random.Random, mean: float, spread: float) -> int:
    return max(1, round(draw.lognormvariate(math.log(mean) - spread**2 / 2, spread)))


def _fit(num_prompt_tokens: int, num_output_tokens: int, context_tokens: int) -> tuple[int, int]:
    prompt = min(num_prompt_tokens, context_tokens - 1)
    return prompt, min(num_output_tokens, context_tokens - prompt)
