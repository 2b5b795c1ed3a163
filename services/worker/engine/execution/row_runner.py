"""Logits behind the last tokens of sequences, and nothing more: how a draft runs a model.

The weights may be another model's, or the target's in fewer bits; the cache may be its own, or the target's seen in
another way: whatever the decoder and the layers are. Draws nothing and knows no scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.batch import ScheduledBatch
from services.worker.engine.device_transfer import select_rows
from services.worker.engine.execution.step_inputs import prepare_inputs
from services.worker.engine.models.decoder import Decoder


class RowRunner:
    def __init__(
        self, decoder: Decoder, layers: Sequence[LayerCache], *, block_size_tokens: int, device: torch.device
    ) -> None:
        """`layers`: every layer's part of the cache. What a step computes is written there."""
        self.decoder = decoder
        self.layers = layers
        self.device = device
        self._block_size_tokens = block_size_tokens

    @torch.inference_mode()
    def logits(self, batch: ScheduledBatch) -> torch.Tensor:
        """[S, V] float32 behind the last token of each item, in the batch's order. Every item has one sampler."""
        return self.decoder.logits(self._hidden(batch))

    @torch.inference_mode()
    def largest(self, batch: ScheduledBatch) -> torch.Tensor | None:
        """[S] int64, the token of each item's largest logit, -1 where one is not a number; None: ask for logits."""
        if not self.decoder.finds_largest:
            return None
        return self.decoder.largest(self._hidden(batch))

    def _hidden(self, batch: ScheduledBatch) -> torch.Tensor:
        inputs = prepare_inputs(batch, block_size_tokens=self._block_size_tokens)
        tensors = inputs.to(self.device)
        hidden = self.decoder.forward(tensors.token_ids, self.layers, tensors.layouts)
        places = {id(item): row for item, row in zip(inputs.scheduled, inputs.sampled_rows, strict=True)}
        return select_rows(hidden, [places[id(item)] for item in batch.items])
