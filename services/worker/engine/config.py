"""The engine's settings: plain values, resolved once by the worker, never changed afterwards."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class SchedulingPolicy(StrEnum):
    CONTINUOUS = "continuous"
    STATIC = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How one engine is built.

    `dtype` and `device` may be `auto`: CUDA when there is one, else CPU; the checkpoint's dtype (bfloat16 on CPU
    for 16-bit checkpoints). `kv_cache_bytes` None takes a share of what is free. `max_model_tokens` None takes
    the checkpoint's own limit. `device_memory_fraction`: of a
    card's memory, weights and step included, when `kv_cache_bytes` is None. `num_threads` None leaves torch's choice.
    """

    model: Path
    dtype: str = "auto"
    device: str = "auto"
    block_size_tokens: int = 16
    kv_cache_bytes: int | None = None
    num_kv_blocks: int | None = None
    max_model_tokens: int | None = None
    max_tokens_per_step: int = 512
    max_running_sequences: int = 64
    max_waiting_sequences: int = 1024
    policy: SchedulingPolicy = SchedulingPolicy.CONTINUOUS
    enable_prefix_cache: bool = True
    attention_backend: str = "auto"
    device_memory_fraction: float = 0.9
    enable_cuda_graphs: bool = True
    num_threads: int | None = None
