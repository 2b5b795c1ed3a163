"""Which attention backend runs here. Knows the names; the engine's configuration says which one is wanted."""

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.gather_attention import GatherAttention
from services.worker.engine.attention.native_attention import NativeAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.native.library import KERNEL_DTYPES, MAX_GROUP, MAX_HEAD_SIZE, load_kernels

NAMES = ("auto", "native", "gather", "reference")


def select_attention(
    name: str, config: DecoderConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[AttentionBackend, str]:
    """`auto` takes the fastest that works; beside it, why that is not the native one, or nothing.

    Raises ValueError for an unknown or unusable name.
    """
    if name not in NAMES:
        raise ValueError(f"unknown attention backend {name!r}: one of {', '.join(NAMES)}")
    if name == "reference":
        return ReferenceAttention(), ""
    if name == "gather":
        return GatherAttention(), ""
    problem = _why_not_native(config, device)
    kernels = None if problem else load_kernels(dtype)
    if kernels is not None:
        return NativeAttention(kernels), ""
    problem = (
        problem or f"no kernels for {dtype} here: {', '.join(map(str, KERNEL_DTYPES))} and a C compiler are needed"
    )
    if name == "native":
        raise ValueError(f"no native attention: {problem}")
    return GatherAttention(), problem


def _why_not_native(config: DecoderConfig, device: torch.device) -> str:
    """The kernels do windows and soft caps; their buffers bound the heads."""
    group = config.num_query_heads // config.num_kv_heads
    if device.type != "cpu":
        return f"the kernels are for the CPU, not for {device}"
    if group > MAX_GROUP:
        return f"{group} query heads to a kv head are more than {MAX_GROUP}"
    if config.head_size > MAX_HEAD_SIZE:
        return f"heads of {config.head_size} are larger than {MAX_HEAD_SIZE}"
    return ""
