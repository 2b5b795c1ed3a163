"""Which decoder operators run here: native ones where they can be built, torch's otherwise."""

import torch

from services.worker.engine.models.decoder_operators import DecoderOperators, TorchOperators


def select_operators(attention_backend: str, *, device: torch.device, dtype: torch.dtype) -> DecoderOperators:
    """The native operators come with the native attention backend: naming another one means torch throughout."""
    return TorchOperators()
