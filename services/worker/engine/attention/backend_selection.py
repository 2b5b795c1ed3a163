"""Which attention backend runs here. Knows the names; the engine's configuration says which one is wanted."""

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.gather_attention import GatherAttention
from services.worker.engine.attention.native_attention import NativeAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.native.library import MAX_GROUP, MAX_HEAD_SIZE, load_kernels

NAMES = ("auto", "native", "gather", "reference")


def select_attention(name: str, config: DecoderConfig, *, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """`auto` takes the fastest that works. Raises ValueError for an unknown or unusable name."""
    if name not in NAMES:
        raise ValueError(f"unknown attention backend {name!r}: one of {', '.join(NAMES)}")
    if name == "reference":
        return ReferenceAttention()
    if name == "gather":
        return GatherAttention()
    kernels = load_kernels(dtype) if device.type == "cpu" and _fits(config) else None
    if kernels is not None:
        return NativeAttention(kernels)
    if name == "native":
        raise ValueError(f"no native attention for {dtype} on {device} with heads of {config.head_size}")
    return GatherAttention()


def _fits(config: DecoderConfig) -> bool:
    group = config.num_query_heads // config.num_kv_heads
    return group <= MAX_GROUP and config.head_size <= MAX_HEAD_SIZE
