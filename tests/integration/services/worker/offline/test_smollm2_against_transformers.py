"""The proof that the whole engine computes what the model's authors meant: SmolLM2, token for token.

Our greedy tokens are put before transformers in one forward pass: if each is the most likely token after those
before it, they are what transformers would have generated. A token may lose by less than a tie's worth.
"""

import pydoc_data.topics
from pathlib import Path

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import ChoiceStart, Submit
from shared.contracts.sampling import SamplingParameters
from shared.tokenization.tokenizer import Tokenizer

pytestmark = [pytest.mark.model, pytest.mark.slow]

NUM_PROMPTS = 20
NUM_OUTPUT_TOKENS = 64
TIE = 1e-3


def _prompts(tokenizer: Tokenizer) -> list[list[int]]:
    """Documentation prose, 5 to 62 tokens long."""
    topics = sorted(pydoc_data.topics.topics.items())
    texts = [text for _, text in topics if len(text) > 1200][:NUM_PROMPTS]
    return [tokenizer.encode(text[100:])[: 5 + 3 * index] for index, text in enumerate(texts)]


def _generate(model: Path, prompts: list[list[int]]) -> list[list[int]]:
    engine = Engine.load(
        EngineConfig(model=model, dtype="float32", device="cpu", num_kv_blocks=600, max_tokens_per_step=256)
    )
    for index, prompt in enumerate(prompts):
        engine.submit(
            Submit(
                request_id=str(index),
                choices=[ChoiceStart(index=0, prompt_token_ids=prompt)],
                sampling=SamplingParameters(temperature=0.0, max_tokens=NUM_OUTPUT_TOKENS, ignore_eos=True),
                eos_token_ids=[],
            )
        )
    outputs: list[list[int]] = [[] for _ in prompts]
    while engine.has_work:
        for event in engine.step().tokens:
            outputs[int(event.request_id)].extend(event.token_ids)
    engine.check_integrity()
    return outputs


def _margins(model: Path, prompts: list[list[int]], outputs: list[list[int]]) -> torch.Tensor:
    """By how much each output token loses to the most likely one: [prompts, NUM_OUTPUT_TOKENS], 0 = it is it."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    margins = []
    for prompt, output in zip(prompts, outputs, strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + output])).logits[0]  # [T, V]
        predicting = logits[len(prompt) - 1 : -1]
        chosen = predicting.gather(1, torch.tensor(output)[:, None])[:, 0]
        margins.append(predicting.max(dim=1).values - chosen)
    return torch.stack(margins)


@pytest.mark.timeout(600)
def test_greedy_tokens_equal_those_of_transformers(smollm2_directory: Path) -> None:
    prompts = _prompts(Tokenizer.from_directory(smollm2_directory))
    assert len(prompts) == NUM_PROMPTS

    outputs = _generate(smollm2_directory, prompts)
    assert all(len(output) == NUM_OUTPUT_TOKENS for output in outputs)

    margins = _margins(smollm2_directory, prompts, outputs)
    worst = int(margins.max(dim=1).values.argmax())
    assert margins.max() < TIE, f"prompt {worst} at token {int(margins[worst].argmax())} is off"
    assert (margins > 0).sum() <= 3, "more ties than chance has"
    assert len({tuple(output) for output in outputs}) == NUM_PROMPTS
