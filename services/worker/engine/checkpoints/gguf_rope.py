"""Rope scaling as GGUF files say it, in the words of a Hugging Face config.json.

Llama 3.1's is not in the metadata: the file has a tensor with a divisor for every frequency. Only the numbers that
Meta used give those divisors, so the numbers are found by trying them; anything else is refused.

Source: llama.cpp, convert_hf_to_gguf.py (LlamaModel.generate_extra_tensors).
"""

import math
from typing import Any

import numpy

from services.worker.engine.checkpoints.gguf_metadata import GgufMetadata

DIVISORS = "rope_freqs.weight"
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192


def rope_scaling(metadata: GgufMetadata, divisors: numpy.ndarray | None, config: dict[str, Any]) -> dict[str, Any]:
    """`config` with `rope_scaling`, where there is one."""
    prefix = metadata.of_model("rope.scaling")
    kind = metadata.get(f"{prefix}.type", "none")
    if divisors is not None:
        if kind != "none":
            raise metadata.error(f"{prefix}.type", f"{kind!r} beside {DIVISORS}: one of them must do")
        return config | _from_divisors(metadata, divisors, config)
    if kind == "none":
        return config
    scaling = {"rope_type": kind, "factor": metadata.number(f"{prefix}.factor")}
    original = metadata.get(f"{prefix}.original_context_length")
    if original is not None:
        scaling["original_max_position_embeddings"] = original
    return config | {"rope_scaling": scaling}


def _from_divisors(metadata: GgufMetadata, divisors: numpy.ndarray, config: dict[str, Any]) -> dict[str, Any]:
    if (divisors == 1).all():
        return {}
    factor = float(divisors.max())
    expected = llama3_divisors(factor, theta=config["rope_theta"], head_size=config["head_dim"])
    if divisors.shape != expected.shape or not numpy.allclose(divisors, expected, rtol=1e-4, atol=0):
        raise metadata.error(DIVISORS, "is not Llama 3.1's scaling, the only one we know by its divisors")
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _ORIGINAL,
    }
    return {"rope_scaling": scaling}


def llama3_divisors(factor: float, *, theta: float, head_size: int) -> numpy.ndarray:
    """[D / 2]: 1 for short waves, `factor` for long ones, a blend between."""
    wavelengths = 2 * math.pi * theta ** (numpy.arange(0, head_size, 2) / head_size)
    smooth = ((_ORIGINAL / wavelengths - _LOW) / (_HIGH - _LOW)).clip(0, 1)
    return numpy.asarray(1 / ((1 - smooth) / factor + smooth))
