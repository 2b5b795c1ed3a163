"""Runs one scheduled batch: block copies, the decoder, the sampler. Owns the model and the cache's tensors.

Knows no queue and no messages: what to run was decided before, what it means is decided after.
"""

import torch

from services.worker.engine.batch import SampledToken, ScheduledBatch
from services.worker.engine.execution.step_inputs import prepare_inputs
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.sampling.sampler import sample


class ModelRunner:
    def __init__(
        self,
        decoder: Decoder,
        *,
        num_blocks: int,
        block_size_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        config = decoder.config
        self._decoder = decoder
        self._block_size_tokens = block_size_tokens
        self._device = device
        # Zeros, not empty: attention may read a padded cell before anybody wrote it, and 0 * NaN is NaN.
        self._cache = torch.zeros(
            (config.num_layers, 2, num_blocks, block_size_tokens, config.num_kv_heads, config.head_size),
            dtype=dtype,
            device=device,
        )

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> list[SampledToken]:
        """One token for every sampler of the batch."""
        self._copy_blocks(batch.block_copies)
        inputs = prepare_inputs(batch, block_size_tokens=self._block_size_tokens, device=self._device)
        hidden = self._decoder.forward(inputs.token_ids, self._cache, inputs.layout)
        if not inputs.samplers:
            return []
        if inputs.sampled_rows != list(range(hidden.shape[0])):
            hidden = hidden[inputs.sampled_rows]
        return sample(self._decoder.logits(hidden), inputs.samplers)

    def _copy_blocks(self, copies: dict[int, int]) -> None:
        if copies:
            self._cache[:, :, list(copies)] = self._cache[:, :, list(copies.values())]
