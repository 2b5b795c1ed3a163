"""Which decoder operators run here: native ones where they can be built, torch's otherwise."""

import torch

from services.worker.engine.models.decoder_operators import DecoderOperators, TorchOperators
from services.worker.engine.models.native_operators import NativeOperators
from services.worker.engine.native.library import load_kernels


def select_operators(attention_backend: str, *, device: torch.device, dtype: torch.dtype) -> DecoderOperators:
    """The native operators come with `auto` and `native`; naming another backend means torch throughout."""
    if attention_backend in ("auto", "native") and device.type == "cpu":
        kernels = load_kernels(dtype)
        if kernels is not None:
            return NativeOperators(kernels)
    return TorchOperators()
