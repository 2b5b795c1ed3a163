"""Which device and which number type a model runs on."""

import torch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but there is no CUDA here")
    return device


def choose_dtype(name: str, *, checkpoint_dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is the checkpoint's own, but bfloat16 for 16-bit checkpoints on CPU. Raises ValueError."""
    wanted = checkpoint_dtype if name == "auto" else name
    if wanted not in _DTYPES:
        raise ValueError(f"unknown dtype {wanted!r}: auto, {', '.join(_DTYPES)}")
    if name == "auto" and device.type == "cpu" and wanted == "float16":
        return torch.bfloat16
    return _DTYPES[wanted]
