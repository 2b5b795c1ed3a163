"""A request's tokens do not depend on what else runs, on chunk size, on prefix hits, on preemption or on a failover.

Greedy and seeded sampling, float32, a random model whose logits lie well apart.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.config import EngineConfig, SchedulingPolicy
from services.worker.engine.engine import Engine
from services.worker.engine.events import Cancel, Submit
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit

NUM_REQUESTS = 32
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 20, "min_p": 0.01},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 0.9, "frequency_penalty": 0.5, "presence_penalty": 0.2, "min_tokens": 4},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def load(checkpoint: Path, **changes: Any) -> Engine:
    return Engine.load(EngineConfig(**{"model": checkpoint, "num_kv_blocks": 512, **changes}))


def submissions() -> Iterator[Submit]:
    generator = torch.Generator().manual_seed(5)
    for index in range(NUM_REQUESTS):
        length = int(torch.randint(1, 90, (1,), generator=generator))
        prompt = torch.randint(0, 300, (length,), generator=generator).tolist()
        sampling = SAMPLINGS[index % len(SAMPLINGS)]
        yield make_submit(f"request {index}", prompt, seed=index * 7919, max_tokens=24, **sampling)


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> dict[tuple[str, int], list[int]]:
    """Every request by itself, without any reuse: what all other ways must reproduce."""
    engine = load(checkpoint, enable_prefix_cache=False)
    tokens: dict[tuple[str, int], list[int]] = {}
    for submission in submissions():
        tokens.update(drive(engine, submission).tokens)
    assert len({tuple(one) for one in tokens.values()}) == NUM_REQUESTS
    return tokens


def test_in_a_batch_of_32(checkpoint: Path, alone: dict[tuple[str, int], list[int]]) -> None:
    told = drive(load(checkpoint, max_tokens_per_step=4096), *submissions())
    assert told.tokens == alone
    assert max(statistics.num_running for statistics in told.statistics) == NUM_REQUESTS


@pytest.mark.parametrize("chunk", [1, 3, 16, 50])
def test_with_prompts_prefilled_in_chunks(
    checkpoint: Path, alone: dict[tuple[str, int], list[int]], chunk: int
) -> None:
    engine = load(checkpoint, max_tokens_per_step=chunk, max_running_sequences=min(chunk, 8))
    told = drive(engine, *submissions(), max_steps=10_000)
    assert told.tokens == alone
    assert all(s.num_prefill_tokens + s.num_decode_tokens <= chunk for s in told.statistics)


@pytest.mark.parametrize("backend", ["reference", "gather", "auto"])
def test_with_a_prefix_hit(checkpoint: Path, alone: dict[tuple[str, int], list[int]], backend: str) -> None:
    engine = load(checkpoint, attention_backend=backend)
    drive(engine, *submissions())
    told = drive(engine, *submissions())
    assert told.tokens == alone
    assert sum(timing.cached_prompt_tokens for timing in told.timings.values()) > 0


def test_preempted_for_want_of_blocks(checkpoint: Path, alone: dict[tuple[str, int], list[int]]) -> None:
    told = drive(load(checkpoint, num_kv_blocks=10), *submissions())
    assert told.tokens == alone
    assert told.statistics[-1].num_preemptions_total > 0
    assert sum(timing.num_preemptions for timing in told.timings.values()) > 0


def test_after_the_cancel_of_every_third_neighbour(checkpoint: Path, alone: dict[tuple[str, int], list[int]]) -> None:
    engine, told = load(checkpoint, max_tokens_per_step=64), Told()
    for submission in submissions():
        engine.submit(submission)
    cancelled = [f"request {index}" for index in range(0, NUM_REQUESTS, 3)]
    while engine.has_work:
        told.step(engine)
        if cancelled and len(told.statistics) > 3:
            engine.cancel(Cancel(request_id=cancelled.pop()))
    whole = {key for key, tokens in told.tokens.items() if len(tokens) == 24}
    assert {(f"request {index}", 0) for index in range(NUM_REQUESTS) if index % 3} <= whole
    assert len(whole) < NUM_REQUESTS
    for key, tokens in told.tokens.items():
        assert tokens == alone[key][: len(tokens)]


def test_batched_statically(checkpoint: Path, alone: dict[tuple[str, int], list[int]]) -> None:
    engine = load(checkpoint, policy=SchedulingPolicy.STATIC, max_running_sequences=5)
    told = drive(engine, *submissions())
    assert told.tokens == alone


@pytest.mark.parametrize("num_tokens_before", [1, 10, 23])
def test_resumed_after_its_worker_was_lost(
    checkpoint: Path, alone: dict[tuple[str, int], list[int]], num_tokens_before: int
) -> None:
    engine = load(checkpoint)
    resumed = [
        make_submit(
            one.request_id,
            one.choices[0].prompt_token_ids,
            outputs=alone[one.request_id, 0][:num_tokens_before],
            seed=one.choices[0].seed,
            max_tokens=24,
            **SAMPLINGS[index % len(SAMPLINGS)],
        )
        for index, one in enumerate(submissions())
    ]
    told = drive(engine, *resumed)
    for key, tokens in alone.items():
        assert told.tokens[key] == tokens[num_tokens_before:]
        assert told.positions[key] == list(range(num_tokens_before, 24))


def test_choices_that_share_a_prompt_draw_as_if_they_were_requests_of_their_own(checkpoint: Path) -> None:
    prompt = list(range(50, 87))
    engine = load(checkpoint, enable_prefix_cache=False)
    together = drive(engine, make_submit("n", prompt, n=6, seed=40, temperature=1.0))
    for choice in range(6):
        single = drive(engine, make_submit("1", prompt, seed=40 + choice, temperature=1.0))
        assert together.tokens["n", choice] == single.tokens["1", 0]
    assert together.statistics[0].num_prefill_tokens == len(prompt)
    assert len({tuple(tokens) for tokens in together.tokens.values()}) == 6


def test_choices_share_the_blocks_of_their_prompt(checkpoint: Path) -> None:
    told = drive(load(checkpoint), make_submit("n", list(range(160)), n=8, temperature=1.0, max_tokens=4))
    # Ten blocks of prompt once, and one block for the output of each choice.
    assert max(statistics.blocks_used for statistics in told.statistics) == 10 + 8


def test_choices_survive_a_shortage_of_blocks(checkpoint: Path) -> None:
    prompt = list(range(100, 137))
    wide = drive(load(checkpoint), make_submit("n", prompt, n=6, temperature=1.0, max_tokens=40))
    narrow_engine = load(checkpoint, num_kv_blocks=7)
    narrow = drive(narrow_engine, make_submit("n", prompt, n=6, temperature=1.0, max_tokens=40))
    assert narrow.tokens == wide.tokens
    assert narrow.statistics[-1].num_preemptions_total > 0
