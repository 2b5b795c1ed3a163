"""The engine's settings: plain values, resolved once by the worker, never changed afterwards."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROUNDING_NAME = r"rtn-(?P<format>int[248]|fp8|fp8e5m2)(-g(?P<group>[0-9]+))?(?P<asym>-asym)?(-a(?P<activations>8|16))?"
QUANTIZATION_NAME = rf"^(none|keep|keep-head8|{ROUNDING_NAME})$"
"""What they mean is written in quantization/load_time.py."""
_CACHE_PART = r"(16bit|int8|fp8|int4)(\*[1-9][0-9]*)?"
KV_CACHE_NAME = rf"^{_CACHE_PART}(,{_CACHE_PART})*$"
"""What they mean is written in kv_cache/cell_format.py."""


class EngineRefused(ValueError):
    """A setting or a file that no engine can work with: another start would end the same way."""


SPECULATION_NAME = r"^[a-z][a-z0-9-]{0,31}$"
"""What they mean is written in speculation/methods.py."""


class Verifier(StrEnum):
    COUPLED = "coupled"
    """A draft's token stands when it is the one that the target draws with its own noise: no output changes."""
    REJECTION = "rejection"
    """A draft's token stands with probability min(1, p / q): more of them do, and the output keeps its distribution."""


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
    `quantization` is one of the names of quantization/load_time.py, `kv_cache` of kv_cache/cell_format.py.
    `speculation` is how requests that do not say speculate, of speculation/methods.py; `draft_model` makes the method
    of that name available. `max_draft_tokens`: of one sequence in one step; `fixed_draft_tokens`: always so many, for
    measurements. `shared_text_tokens` of each tenant are remembered for lookups.
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
    quantization: str = "none"
    kv_cache: str = "16bit"
    speculation: str = "none"
    verifier: Verifier = Verifier.COUPLED
    draft_model: Path | None = None
    max_draft_tokens: int = 8
    fixed_draft_tokens: bool = False
    shared_text_tokens: int = 0
