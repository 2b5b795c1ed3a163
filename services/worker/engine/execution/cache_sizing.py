"""How many KV blocks fit: what the configuration says, else a share of the memory that is free after loading."""

import os

import torch

from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.config import EngineConfig
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry

CPU_SHARE = 0.25
CPU_LIMIT_BYTES = 4 << 30
_LOGITS_COPIES = 6
"""What sampling holds at once, in float32: logits, shifted, sorted with their places, probabilities, their sums."""


def count_blocks(
    config: EngineConfig,
    geometry: CacheGeometry,
    *,
    block_bytes: int,
    step_bytes: int,
    max_model_tokens: int,
    device: torch.device,
) -> int:
    """At most what all running sequences together can use. Raises ValueError when too few fit for one token."""
    num_blocks = config.num_kv_blocks
    if num_blocks is None:
        budget = config.kv_cache_bytes if config.kv_cache_bytes is not None else _free_bytes(config, device, step_bytes)
        most = geometry.most_blocks(max_model_tokens) * config.max_running_sequences
        num_blocks = min(budget // block_bytes, most)
        if num_blocks < geometry.most_blocks(1):
            raise ValueError(
                f"kv_cache_bytes {budget} is less than the {geometry.most_blocks(1)} blocks of {block_bytes} bytes"
                " that a single token takes"
            )
    if num_blocks < geometry.most_blocks(1):
        raise ValueError(f"num_kv_blocks {num_blocks} is less than the {geometry.most_blocks(1)} of a single token")
    return num_blocks


def bytes_of_a_step(decoder: DecoderConfig, config: EngineConfig, *, dtype: torch.dtype) -> int:
    """What the largest step needs beside weights and cache: activations of its tokens, logits of its sequences."""
    heads = decoder.num_query_heads + decoder.num_kv_heads
    per_token = 6 * decoder.hidden_size + 3 * decoder.intermediate_size + 4 * heads * decoder.head_size
    logits = config.max_running_sequences * decoder.vocabulary_size * torch.float32.itemsize
    return config.max_tokens_per_step * per_token * dtype.itemsize + _LOGITS_COPIES * logits


def device_budget(*, total_bytes: int, free_bytes: int, fraction: float, step_bytes: int) -> int:
    """What is left of `fraction` of a card for the cache once everything else, others' memory too, has its place."""
    return int(total_bytes * fraction) - (total_bytes - free_bytes) - step_bytes


def _free_bytes(config: EngineConfig, device: torch.device, step_bytes: int) -> int:
    if device.type == "cuda":
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
        return device_budget(
            total_bytes=total_bytes,
            free_bytes=free_bytes,
            fraction=config.device_memory_fraction,
            step_bytes=step_bytes,
        )
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(int(free * CPU_SHARE), CPU_LIMIT_BYTES)
