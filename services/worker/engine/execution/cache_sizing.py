"""How many KV blocks fit: what the configuration says, else a share of the memory that is free after loading."""

import os

import torch

from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.config import EngineConfig
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.layer_groups import LayerGroups

GPU_SHARE = 0.9
CPU_SHARE = 0.25
CPU_LIMIT_BYTES = 4 << 30


def bytes_per_block(decoder: DecoderConfig, groups: LayerGroups, *, block_size_tokens: int, dtype: torch.dtype) -> int:
    per_token = 2 * groups.layers_per_block * decoder.num_kv_heads * decoder.head_size * dtype.itemsize
    return per_token * block_size_tokens


def count_blocks(
    config: EngineConfig,
    geometry: CacheGeometry,
    *,
    block_bytes: int,
    max_model_tokens: int,
    device: torch.device,
) -> int:
    """At most what all running sequences together can use. Raises ValueError when too few fit for one token."""
    num_blocks = config.num_kv_blocks
    if num_blocks is None:
        budget = config.kv_cache_bytes if config.kv_cache_bytes is not None else _free_bytes(device)
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


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * GPU_SHARE)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(int(free * CPU_SHARE), CPU_LIMIT_BYTES)
