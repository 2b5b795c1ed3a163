"""Greedy tokens and log probabilities of the whole engine against transformers, on random checkpoints, in float32."""

import copy
from typing import Any

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from tests.engine_driver import drive, make_submit
from tests.fixtures.random_models import CASES, SaveModel, random_prompt

PROMPT_LENGTHS = (1, 2, 15, 16, 17, 100, 150)
TIE = 1e-3
"""Logits closer than this are a tie: either token is right."""


@pytest.mark.parametrize("case", CASES)
def test_greedy_tokens_and_log_probabilities_equal_those_of_transformers(case: str, random_model: SaveModel) -> None:
    directory, model = random_model(case)
    engine = Engine.load(EngineConfig(model=directory, num_kv_blocks=128))
    # A model with longrope is served up to its original length only.
    lengths = [length for length in PROMPT_LENGTHS if length < engine.ready.max_model_tokens]
    assert len(lengths) >= 6
    prompts = {f"{length} tokens": random_prompt(length, seed=length) for length in lengths}
    told = drive(engine, *(make_submit(name, prompt, logprobs=3) for name, prompt in prompts.items()))
    for name, prompt in prompts.items():
        tokens = told.tokens[name, 0]
        assert len(tokens) == 16
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected = logits.float().log_softmax(-1)
        entries = [entry for event in told.events if event.request_id == name for entry in event.logprobs or []]
        for step, (token, entry) in enumerate(zip(tokens, entries, strict=True)):
            assert expected[step].max() - expected[step, token] < TIE
            assert entry.logprob == pytest.approx(float(expected[step, token]), abs=2e-4)
            assert entry.top_logprobs == pytest.approx(expected[step].topk(3).values.tolist(), abs=2e-4)


@pytest.mark.parametrize("case", ["llama", "gemma2", "gemma3", "phi3", "qwen3_moe"])
def test_bfloat16_stays_close_to_float32(case: str, random_model: SaveModel) -> None:
    """The packed bfloat16 path computes the same model: it is as far from float32 as transformers in bfloat16 is."""
    directory, model = random_model(case)
    engine = Engine.load(EngineConfig(model=directory, dtype="bfloat16", num_kv_blocks=64))
    prompt = random_prompt(40)
    told = drive(engine, make_submit("a", prompt, logprobs=0))
    tokens = told.tokens["a", 0]
    entries = [entry for event in told.events for entry in event.logprobs or []]

    def expected(reference: Any) -> torch.Tensor:
        with torch.no_grad():
            logits = reference(torch.tensor([prompt + tokens])).logits[0]
        return logits[len(prompt) - 1 : -1].float().log_softmax(-1)[range(len(tokens)), tokens]

    exact, rounded = expected(model), expected(copy.deepcopy(model).to(torch.bfloat16))
    found = torch.tensor([entry.logprob for entry in entries])
    assert float((found - exact).abs().mean()) < 1.5 * float((rounded - exact).abs().mean()) + 0.02
