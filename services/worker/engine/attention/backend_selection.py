"""Which attention backend runs here. Knows the names; the engine's configuration says which one is wanted."""

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.gather_attention import GatherAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention


def select_attention(name: str, *, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """`auto` takes the fastest that works. Raises ValueError for an unknown or unusable name."""
    match name:
        case "auto" | "gather":
            return GatherAttention()
        case "reference":
            return ReferenceAttention()
        case _:
            raise ValueError(f"unknown attention backend {name!r}: auto, native, gather or reference")
