"""Checkpoints of a known shape with random weights: as fast as the real ones, and nothing to download. No tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from services.worker.engine.checkpoints.model_config import parse_model_config
from services.worker.engine.checkpoints.tensor_shapes import expected_shapes

QWEN3_06B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
QWEN2_05B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
_SPREAD = 0.02


def write_random_checkpoint(directory: Path, config: dict[str, Any]) -> Path:
    """bfloat16, one file; the same numbers every time."""
    shapes = expected_shapes(parse_model_config(config, source=directory / "config.json"))
    generator = torch.Generator().manual_seed(0)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (torch.randn(shape, generator=generator) * _SPREAD).to(torch.bfloat16) for name, shape in shapes.items()
    }
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    return directory


def bytes_read_per_step(directory: Path, itemsize: int) -> int:
    """Weights that one decode step reads: all but an embedding that is not the head, too."""
    raw = json.loads((directory / "config.json").read_text())
    config = parse_model_config(raw, source=directory / "config.json")
    return itemsize * sum(
        torch.Size(shape).numel()
        for name, shape in expected_shapes(config).items()
        if config.tie_word_embeddings or name != "model.embed_tokens.weight"
    )
