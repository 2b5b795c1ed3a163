"""Whether our Triton kernels can run here. Knows devices and what is installed; imports no Triton."""

import importlib.util
import os

import torch

MIN_CAPABILITY = (8, 0)
"""bfloat16 products and asynchronous copies; older cards are not what the kernels were written for."""


def is_interpreted() -> bool:
    """Kernels run in Triton's interpreter, on tensors of any device: for tests, thousands of times slower."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_no_triton(device: torch.device, capability: tuple[int, int] | None) -> str:
    """Empty where they run. `capability` is the card's compute capability."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if is_interpreted():
        return ""
    if device.type != "cuda":
        return f"Triton compiles for CUDA, not for {device} (TRITON_INTERPRET=1 interprets, for tests)"
    if capability is None or capability < MIN_CAPABILITY:
        return f"compute capability {_dotted(capability)} is less than {_dotted(MIN_CAPABILITY)}"
    return ""


def _dotted(capability: tuple[int, int] | None) -> str:
    return "unknown" if capability is None else f"{capability[0]}.{capability[1]}"
