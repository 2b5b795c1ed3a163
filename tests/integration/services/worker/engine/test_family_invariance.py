"""Windows, soft caps and experts keep the promise of test_batch_invariance.py: a request's tokens are its own.

Alone, in a batch, in chunks, after a prefix hit, a preemption or the cancel of a neighbour: the same tokens, for a
family whose layers slide, one with two kinds of layers, and one with experts. Prompts are longer than the windows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import Cancel, Submit
from tests.engine_driver import Told, drive, make_submit
from tests.fixtures.random_models import SaveModel, random_prompt

NUM_REQUESTS = 12
MAX_TOKENS = 20
CASES = ["mistral", "gemma3", "qwen3_moe"]
Tokens = dict[tuple[str, int], list[int]]


def load(checkpoint: Path, **changes: Any) -> Engine:
    return Engine.load(EngineConfig(**{"model": checkpoint, "num_kv_blocks": 256, **changes}))


def submissions() -> Iterator[Submit]:
    for index in range(NUM_REQUESTS):
        sampling = {"temperature": 0.0} if index % 2 else {"temperature": 0.8, "top_p": 0.9}
        prompt = random_prompt(3 + 7 * index, seed=index)
        yield make_submit(f"request {index}", prompt, seed=index * 7919, max_tokens=MAX_TOKENS, **sampling)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(case: str, random_model: SaveModel) -> Path:
    return random_model(case)[0]


@pytest.fixture(scope="module")
def alone(checkpoint: Path) -> Tokens:
    engine = load(checkpoint, enable_prefix_cache=False)
    tokens: Tokens = {}
    for submission in submissions():
        tokens.update(drive(engine, submission).tokens)
    assert len({tuple(one) for one in tokens.values()}) == NUM_REQUESTS
    return tokens


def test_in_a_batch(checkpoint: Path, alone: Tokens) -> None:
    told = drive(load(checkpoint, max_tokens_per_step=4096), *submissions())
    assert told.tokens == alone
    assert max(statistics.num_running for statistics in told.statistics) == NUM_REQUESTS


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_with_prompts_prefilled_in_chunks(checkpoint: Path, alone: Tokens, chunk: int) -> None:
    engine = load(checkpoint, max_tokens_per_step=chunk, max_running_sequences=min(chunk, 8))
    assert drive(engine, *submissions(), max_steps=10_000).tokens == alone


@pytest.mark.parametrize("backend", ["reference", "gather", "auto"])
def test_with_a_prefix_hit(checkpoint: Path, alone: Tokens, backend: str) -> None:
    engine = load(checkpoint, attention_backend=backend)
    drive(engine, *submissions())
    told = drive(engine, *submissions())
    assert told.tokens == alone
    assert sum(timing.cached_prompt_tokens for timing in told.timings.values()) > 0


def test_preempted_for_want_of_blocks(checkpoint: Path, case: str, alone: Tokens) -> None:
    """A block of gemma3 holds one of its four layers, the others' hold all."""
    told = drive(load(checkpoint, num_kv_blocks=30 if case == "gemma3" else 10), *submissions())
    assert told.tokens == alone
    assert told.statistics[-1].num_preemptions_total > 0


def test_after_the_cancel_of_every_second_neighbour(checkpoint: Path, alone: Tokens) -> None:
    engine, told = load(checkpoint), Told()
    for submission in submissions():
        engine.submit(submission)
    for _ in range(5):
        told.step(engine)
    cancelled = {f"request {index}" for index in range(0, NUM_REQUESTS, 2)}
    for request_id in cancelled:
        engine.cancel(Cancel(request_id=request_id))
    while engine.has_work:
        told.step(engine)
    for (request_id, choice), tokens in alone.items():
        found = told.tokens[request_id, choice]
        assert found == (tokens[: len(found)] if request_id in cancelled else tokens)
    assert all(len(told.tokens[request_id, 0]) < MAX_TOKENS for request_id in cancelled)


LONG = [random_prompt(length, seed=length) for length in (150, 97, 203)]
"""Seven to eleven windows of the families that slide."""


@pytest.mark.parametrize("backend", ["reference", "gather", "native"])
@pytest.mark.parametrize("sliding", ["mistral", "gemma3", "qwen3, sliding"])
def test_contexts_of_many_windows_in_few_blocks_equal_transformers(
    random_model: SaveModel, backend: str, sliding: str
) -> None:
    """Blocks are given back and taken by others all the time; with prefix hits, preemption and `n` besides."""
    directory, model = random_model(sliding)
    expected = {}
    for number, prompt in enumerate(LONG):
        output = model.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False, eos_token_id=None)
        expected[f"long {number}"] = output[0, len(prompt) :].tolist()
    submissions = [make_submit(f"long {number}", prompt, n=2, max_tokens=60) for number, prompt in enumerate(LONG)]
    num_blocks = {"mistral": 12, "gemma3": 50, "qwen3, sliding": 28}[sliding]
    engine = load(
        directory, attention_backend=backend, num_kv_blocks=num_blocks, max_tokens_per_step=48, max_running_sequences=8
    )
    if sliding == "mistral":
        assert engine.ready.max_model_tokens == 512, "of 192 cells"
    told = drive(engine, *submissions)
    again = drive(engine, *submissions)
    for (request_id, _), tokens in [*told.tokens.items(), *again.tokens.items()]:
        assert tokens == expected[request_id]
    assert told.statistics[-1].num_preemptions_total > 0
    assert sum(timing.cached_prompt_tokens for timing in again.timings.values()) > 0
