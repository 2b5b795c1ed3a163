"""Finds the frames of a model's keys while loading: one prompt of tokens from all over the vocabulary, in 16 bits.

What a channel's middle and range are hardly depends on the text, so none is needed, and no tokenizer
(docs/quantization.md compares). The same model gives the same frames, whatever a worker's limits are: frames decide
what it answers, and its fingerprint does not tell of limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.worker.engine.attention.key_frame import KeyFrame
from services.worker.engine.execution.cache_memory import cache_shape
from services.worker.engine.execution.model_runner import ModelRunner
from services.worker.engine.execution.step_measurement import measuring_prompt
from services.worker.engine.kv_cache.cell_format import CellFormat
from services.worker.engine.kv_cache.layer_groups import LayerGroups
from services.worker.engine.models.decoder import Decoder

MOST_TOKENS = 512
_STEP = 2_654_435_761
"""Knuth's multiplier: consecutive numbers far apart."""


def find_key_frames(
    decoder: Decoder,
    formats: Sequence[CellFormat | None],
    groups: LayerGroups,
    *,
    num_tokens: int,
    block_size_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
) -> list[KeyFrame | None]:
    """One for each layer with cells, unless scores are capped. `num_tokens`: of the prompt."""
    has_cap = decoder.config.attention_cap is not None
    wanted = [cell_format is not None and not has_cap for cell_format in formats]
    if not any(wanted):
        return [None] * len(wanted)
    num_blocks, num_groups = -(-num_tokens // block_size_tokens), len(groups.groups)
    runner = ModelRunner(
        decoder,
        num_blocks=num_blocks * num_groups,
        groups=groups,
        cache_shape=cache_shape(decoder.config, groups, block_size_tokens=block_size_tokens, dtype=dtype),
        device=device,
    )
    token_ids = [number * _STEP % 2**32 * decoder.config.vocabulary_size >> 32 for number in range(num_tokens)]
    batch = measuring_prompt(token_ids, block_size_tokens=block_size_tokens, num_groups=num_groups)
    runner.launch(batch).read()
    frames: list[KeyFrame | None] = []
    for cache, is_wanted in zip(runner.layers, wanted, strict=True):
        keys = cache.keys[cache.group * num_blocks : (cache.group + 1) * num_blocks].flatten(0, 1)[:num_tokens]
        frames.append(KeyFrame.of(keys) if is_wanted else None)
    return frames
