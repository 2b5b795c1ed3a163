"""Greedy tokens and logits of our decoder against transformers, on random checkpoints of odd shapes, in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from tests.engine_driver import drive, make_submit

PLAIN = {
    "vocab_size": 301,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "grouped heads": (LlamaConfig, LlamaForCausalLM, {}),
    "as many kv heads as query heads": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 4}),
    "head size 80, one kv head": (LlamaConfig, LlamaForCausalLM, {"head_dim": 80, "num_key_value_heads": 1}),
    "tied embeddings": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "biases": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "llama3 rope": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3_ROPE}),
    "yarn rope": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": YARN_ROPE}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),
}
PROMPT_LENGTHS = (1, 2, 15, 16, 17, 100, 150)


def save_model(directory: Path, shape: str) -> Any:
    torch.manual_seed(11)
    config_type, model_type, changes = SHAPES[shape]
    model = model_type(config_type(**{**PLAIN, **changes})).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                parameter.add_(torch.randn_like(parameter) * 0.1)  # ones and zeros would hide a missing one
    model.save_pretrained(directory, safe_serialization=True)
    return model


@pytest.mark.parametrize("backend", ["auto", "gather", "reference"])
@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_and_log_probabilities_equal_those_of_transformers(
    shape: str, backend: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path, shape)
    engine = Engine.load(EngineConfig(model=tmp_path, num_kv_blocks=128, attention_backend=backend))
    generator = torch.Generator().manual_seed(3)
    prompts = {
        f"{length} tokens": torch.randint(0, 301, (length,), generator=generator).tolist() for length in PROMPT_LENGTHS
    }
    told = drive(engine, *(make_submit(name, prompt, logprobs=3) for name, prompt in prompts.items()))
    for name, prompt in prompts.items():
        tokens = told.tokens[name, 0]
        assert len(tokens) == 16
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        expected = logits.float().log_softmax(-1)
        entries = [entry for event in told.events if event.request_id == name for entry in event.logprobs or []]
        for step, (token, entry) in enumerate(zip(tokens, entries, strict=True)):
            assert expected[step].max() - expected[step, token] < 1e-3
            assert entry.logprob == pytest.approx(float(expected[step, token]), abs=2e-3)
            assert entry.top_logprobs == pytest.approx(expected[step].topk(3).values.tolist(), abs=2e-3)


def test_bfloat16_stays_close_to_float32(tmp_path: Path) -> None:
    """The packed bfloat16 path computes the same model: log probabilities differ by rounding only."""
    model = save_model(tmp_path, "grouped heads")
    engine = Engine.load(EngineConfig(model=tmp_path, dtype="bfloat16", num_kv_blocks=64))
    prompt = list(range(40, 80))
    told = drive(engine, make_submit("a", prompt, logprobs=0))
    with torch.no_grad():
        reference = model.to(torch.bfloat16)(torch.tensor([prompt + told.tokens["a", 0]])).logits[0]
    expected = reference[len(prompt) - 1 : -1].float().log_softmax(-1)
    entries = [entry for event in told.events for entry in event.logprobs or []]
    differences = [
        abs(entry.logprob - float(row[token]))
        for entry, token, row in zip(entries, told.tokens["a", 0], expected, strict=True)
    ]
    assert sum(differences) / len(differences) < 0.1
