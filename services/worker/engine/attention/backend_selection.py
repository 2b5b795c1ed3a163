"""Which attention backend runs here, and why not a faster one. The engine's configuration says which is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from services.worker.engine.attention import flash_attention
from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.flash_attention import FlashAttention2, FlashAttention3
from services.worker.engine.attention.gather_attention import GatherAttention
from services.worker.engine.attention.native_attention import NativeAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.attention.sdpa_attention import SdpaAttention
from services.worker.engine.attention.triton_attention import TritonAttention
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.config import EngineRefused
from services.worker.engine.native.library import KERNEL_DTYPES, MAX_GROUP, MAX_HEAD_SIZE, load_kernels
from services.worker.engine.triton_kernels.availability import why_no_triton

_AUTO = {
    "cuda": ("flash-attn-3", "flash-attn-2", "triton", "sdpa", "gather"),
    "cpu": ("native", "gather"),
}
"""Fastest first. Where nothing else is said (other devices) torch's operators do it."""


class CannotRun(EngineRefused):
    """A backend cannot do this model here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionNeeds:
    """What a model asks of a backend, and where. `capability` is the card's compute capability, None without one."""

    head_size: int
    group: int
    has_soft_cap: bool
    dtype: torch.dtype
    device: torch.device
    block_size_tokens: int
    capability: tuple[int, int] | None = None


def attention_needs(
    config: DecoderConfig, *, device: torch.device, dtype: torch.dtype, block_size_tokens: int
) -> AttentionNeeds:
    is_card = device.type == "cuda" and torch.cuda.is_available()
    return AttentionNeeds(
        head_size=config.head_size,
        group=config.num_query_heads // config.num_kv_heads,
        has_soft_cap=config.attention_cap is not None,
        dtype=dtype,
        device=device,
        block_size_tokens=block_size_tokens,
        capability=torch.cuda.get_device_capability(device) if is_card else None,
    )


def select_attention(name: str, needs: AttentionNeeds) -> tuple[AttentionBackend, str]:
    """`auto` takes the fastest that works; beside it, why not a faster one, or nothing.

    Raises ValueError for an unknown name, CannotRun for one that cannot run here.
    """
    if name != "auto":
        if name not in BACKENDS:
            raise ValueError(f"unknown attention backend {name!r}: one of auto, {', '.join(BACKENDS)}")
        return make_backend(name, needs), ""
    problems: list[str] = []
    for candidate in _AUTO.get(needs.device.type, ("sdpa", "gather")):
        try:
            return make_backend(candidate, needs), "; ".join(problems)
        except CannotRun as problem:
            problems.append(str(problem))
    raise AssertionError("gather does everything")


def make_backend(name: str, needs: AttentionNeeds) -> AttentionBackend:
    """Raises CannotRun, which begins with the name."""
    try:
        return BACKENDS[name](needs)
    except CannotRun as problem:
        raise CannotRun(f"no {name} attention: {problem}") from problem


def _native(needs: AttentionNeeds) -> AttentionBackend:
    """The kernels do windows and soft caps; their buffers bound the heads."""
    if needs.device.type != "cpu":
        raise CannotRun(f"the kernels are for the CPU, not for {needs.device}")
    if needs.group > MAX_GROUP:
        raise CannotRun(f"{needs.group} query heads to a kv head are more than {MAX_GROUP}")
    if needs.head_size > MAX_HEAD_SIZE:
        raise CannotRun(f"heads of {needs.head_size} are larger than {MAX_HEAD_SIZE}")
    kernels = load_kernels(needs.dtype)
    if kernels is None:
        known = ", ".join(map(str, KERNEL_DTYPES))
        raise CannotRun(f"no kernels for {needs.dtype} here: {known} and a C compiler are needed")
    return NativeAttention(kernels)


def _sdpa(needs: AttentionNeeds) -> AttentionBackend:
    if needs.has_soft_cap:
        raise CannotRun("scaled_dot_product_attention has no soft cap")
    return SdpaAttention()


def _triton(needs: AttentionNeeds) -> AttentionBackend:
    problem = why_no_triton(needs.device, needs.capability)
    if problem:
        raise CannotRun(problem)
    if needs.head_size > flash_attention.MAX_HEAD_SIZE:
        raise CannotRun(f"heads of {needs.head_size} do not fit a program's registers")
    return TritonAttention()


def _flash(version: int, needs: AttentionNeeds) -> AttentionBackend:
    """Why not is asked in the order of what is cheap to know: a package is imported last."""
    least, multiple = flash_attention.MIN_CAPABILITIES[version], flash_attention.BLOCK_MULTIPLES[version]
    if needs.device.type != "cuda":
        raise CannotRun(f"it needs CUDA, not {needs.device}")
    if needs.capability is None or needs.capability < least:
        raise CannotRun(f"compute capability {least[0]}.{least[1]} is needed, here is {needs.capability}")
    if needs.dtype not in (torch.float16, torch.bfloat16):
        raise CannotRun(f"it has no {needs.dtype}")
    if needs.head_size % 8 or needs.head_size > flash_attention.MAX_HEAD_SIZE:
        raise CannotRun(f"heads of {needs.head_size}: it takes multiples of 8 up to {flash_attention.MAX_HEAD_SIZE}")
    if needs.block_size_tokens % multiple:
        raise CannotRun(f"KV blocks of {needs.block_size_tokens} tokens: it reads multiples of {multiple}")
    try:
        module = flash_attention.import_flash(version)
    except ImportError as error:
        raise CannotRun(f"{flash_attention.MODULES[version]} cannot be imported: {error}") from error
    return FlashAttention2(module) if version == 2 else FlashAttention3(module)


BACKENDS: dict[str, Callable[[AttentionNeeds], AttentionBackend]] = {
    "flash-attn-3": lambda needs: _flash(3, needs),
    "flash-attn-2": lambda needs: _flash(2, needs),
    "triton": _triton,
    "native": _native,
    "sdpa": _sdpa,
    "gather": lambda needs: GatherAttention(),
    "reference": lambda needs: ReferenceAttention(),
}
