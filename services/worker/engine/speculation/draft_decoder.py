"""The decoder of a draft, on the target's device and with the target's kinds of kernels. Knows no cache."""

from __future__ import annotations

import torch

from services.worker.engine.attention.backend_selection import CannotRun, attention_needs, select_attention
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.execution.model_loading import LoadedModel
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.models.linear_reader import LinearReader, ReadTensor
from services.worker.engine.models.operator_selection import select_operators


def build_decoder(
    model: LoadedModel,
    shape: DecoderConfig,
    read: ReadTensor,
    *,
    linears: LinearReader | None = None,
    max_model_tokens: int,
) -> Decoder:
    """`model` is the target. A draft whose heads its attention backend cannot do takes the best that can."""
    device, dtype = torch.device(model.device), getattr(torch, model.dtype)
    size = model.geometry.block_size_tokens
    needs = attention_needs(shape, device=device, dtype=dtype, block_size_tokens=size)
    try:
        attention, _ = select_attention(model.attention_backend, needs)
    except CannotRun:
        attention, _ = select_attention("auto", needs)
    decoder = Decoder(
        shape,
        read,
        attention=attention,
        operators=select_operators(attention.name, device=device, dtype=dtype),
        linears=linears,
    )
    decoder.prepare_positions(max_model_tokens)
    return decoder
