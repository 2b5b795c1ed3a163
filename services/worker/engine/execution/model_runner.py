"""Runs one scheduled batch: block copies, the decoder, the sampler. Owns the model and the cache's tensors.

Knows no queue and no messages: what to run was decided before, what it means is decided after.
"""

import math

import numpy as np
import torch

from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.batch import SampledToken, ScheduledBatch
from services.worker.engine.execution.step_inputs import prepare_inputs
from services.worker.engine.kv_cache.layer_groups import LayerGroups
from services.worker.engine.models.decoder import Decoder
from services.worker.engine.sampling.prompt_logprobs import score_prompts
from services.worker.engine.sampling.sampler import sample

_CACHE_LINE_BYTES = 64


class ModelRunner:
    def __init__(
        self,
        decoder: Decoder,
        *,
        num_blocks: int,
        groups: LayerGroups,
        block_size_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._block_size_tokens = block_size_tokens
        self._device = device
        config = decoder.config
        shape = (groups.layers_per_block, 2, num_blocks, block_size_tokens, config.num_kv_heads, config.head_size)
        self._cache = zeros(shape, dtype=dtype, device=device)
        self._layer_caches = layer_caches(self._cache, groups)

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> list[SampledToken]:
        """One token for every sampler of the batch."""
        self._copy_blocks(batch.block_copies)
        inputs = prepare_inputs(batch, block_size_tokens=self._block_size_tokens, device=self._device)
        for sequence in inputs.samplers:
            if sequence.constraint is not None:
                sequence.constraint.begin_mask()
        hidden = self._decoder.forward(inputs.token_ids, self._layer_caches, inputs.layouts)
        score_prompts(inputs.items, inputs.layouts[0].query_start_list, hidden, self._decoder.logits)
        if not inputs.samplers:
            return []
        if inputs.sampled_rows != list(range(hidden.shape[0])):
            hidden = hidden[inputs.sampled_rows]
        return sample(self._decoder.logits(hidden), inputs.samplers)

    def _copy_blocks(self, copies: dict[int, int]) -> None:
        if copies:
            self._cache[:, :, list(copies)] = self._cache[:, :, list(copies.values())]


def layer_caches(cache: torch.Tensor, groups: LayerGroups) -> list[LayerCache]:
    """cache [layers per block, 2, N, P, K, D] -> the part of each layer of the model, in turn."""
    places = {
        layer: LayerCache(keys=cache[place, 0], values=cache[place, 1], group=number)
        for number, group in enumerate(groups.groups)
        for place, layer in enumerate(group.layers)
    }
    return [places[layer] for layer in sorted(places)]


def zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, not empty: attention may read a padded cell before anybody wrote it, and 0 * NaN is NaN.

    On a CPU by way of numpy, which takes zero pages from the kernel: memory is used when a block is, and a cache of
    gigabytes costs no time at the start (torch.zeros writes every page). Aligned to a cache line, as torch's own are.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.zeros(num_bytes + _CACHE_LINE_BYTES, dtype=np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE_BYTES
    return torch.from_numpy(memory[start : start + num_bytes]).view(dtype).view(shape)
