"""Which decoder operators run here: native ones on CPU, Triton's on CUDA, torch's where neither can."""

import torch

from services.worker.engine.models.decoder_operators import DecoderOperators, TorchOperators
from services.worker.engine.models.native_operators import NativeOperators
from services.worker.engine.models.triton_operators import TritonOperators
from services.worker.engine.native.library import load_kernels
from services.worker.engine.triton_kernels.availability import why_no_triton

_FUSED_ON_CUDA = ("auto", "triton", "flash-attn-2", "flash-attn-3")


def select_operators(attention_backend: str, *, device: torch.device, dtype: torch.dtype) -> DecoderOperators:
    """Fused operators come with the fast backends and `auto`; naming one of torch's means torch throughout."""
    if attention_backend in ("auto", "native") and device.type == "cpu":
        kernels = load_kernels(dtype)
        if kernels is not None:
            return NativeOperators(kernels)
    if attention_backend == "triton" or (attention_backend in _FUSED_ON_CUDA and device.type == "cuda"):
        capability = torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None
        if not why_no_triton(device, capability):
            return TritonOperators()
    return TorchOperators()
