"""How many KV blocks fit: what the configuration says, else a share of the memory that is free after loading."""

import os

import torch

from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.config import EngineConfig

GPU_SHARE = 0.9
CPU_SHARE = 0.25
CPU_LIMIT_BYTES = 4 << 30


def bytes_per_block(decoder: DecoderConfig, *, block_size_tokens: int, dtype: torch.dtype) -> int:
    per_token = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_size * dtype.itemsize
    return per_token * block_size_tokens


def count_blocks(
    config: EngineConfig,
    decoder: DecoderConfig,
    *,
    max_model_tokens: int,
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    """At most what all running sequences together can use. Raises ValueError when not even one block fits."""
    if config.num_kv_blocks is not None:
        return config.num_kv_blocks
    budget = config.kv_cache_bytes if config.kv_cache_bytes is not None else _free_bytes(device)
    size = bytes_per_block(decoder, block_size_tokens=config.block_size_tokens, dtype=dtype)
    longest = -(-max_model_tokens // config.block_size_tokens)
    num_blocks = min(budget // size, longest * config.max_running_sequences)
    if num_blocks < 1:
        raise ValueError(f"kv_cache_bytes {budget} is less than one block of {size} bytes")
    return num_blocks


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * GPU_SHARE)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(int(free * CPU_SHARE), CPU_LIMIT_BYTES)
