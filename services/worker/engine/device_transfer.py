"""Numbers to the device and results back without waiting for it: pinned memory, copies that do not block, one event.

On a CPU nothing moves. Everything that execution and sampling send goes through here: a plain `torch.tensor(...,
device="cuda")` waits for all work before it, and a step that waits in its middle leaves the device idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_ALIGNMENT_BYTES = 16
"""Of each array in a packed buffer: no element type is wider."""


def upload(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A list, number or array as a tensor on the device, in stream order."""
    host = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.tensor(values, dtype=dtype)
    return host if device.type == "cpu" else pinned(host).to(device, non_blocking=True)


def pinned(host: torch.Tensor) -> torch.Tensor:
    """A copy in page-locked memory. torch's allocator does not give it away again before its copies are done."""
    return torch.empty(host.shape, dtype=host.dtype, pin_memory=torch.cuda.is_available()).copy_(host)


def select_rows(tensor: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """tensor [R, ...] -> [len(rows), ...]; itself when that is all of it in order."""
    return tensor if rows == list(range(tensor.shape[0])) else tensor[upload(rows, tensor.device, torch.int64)]


@dataclass(frozen=True, slots=True)
class PackedArrays:
    """Arrays one behind the other in one buffer of bytes, so that one copy moves them all."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]

    @classmethod
    def like(cls, arrays: Sequence[npt.NDArray[Any]]) -> PackedArrays:
        return cls(tuple(array.shape for array in arrays), tuple(array.dtype for array in arrays))

    @property
    def places(self) -> list[tuple[int, int]]:
        """First byte and number of bytes of each array."""
        places, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            places.append((start, num_bytes))
            start += -(-num_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        return places

    @property
    def num_bytes(self) -> int:
        start, num_bytes = self.places[-1]
        return -(-(start + num_bytes) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES

    def pack(self, arrays: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
        """uint8 on the host, in page-locked memory where there is a card."""
        packed = torch.empty(self.num_bytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        for array, (start, num_bytes) in zip(arrays, self.places, strict=True):
            packed[start : start + num_bytes] = torch.from_numpy(np.ascontiguousarray(array)).view(-1).view(torch.uint8)
        return packed

    def unpack(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """Views of the buffer."""
        return [
            packed[start : start + num_bytes].view(_TORCH_DTYPES[dtype]).view(shape)
            for (start, num_bytes), dtype, shape in zip(self.places, self.dtypes, self.shapes, strict=True)
        ]


_TORCH_DTYPES = {np.dtype(np.int64): torch.int64, np.dtype(np.int32): torch.int32}


def upload_all(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> list[torch.Tensor]:
    """int64 and int32 arrays in one copy."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    packing = PackedArrays.like(arrays)
    return packing.unpack(packing.pack(arrays).to(device, non_blocking=True))


class Download:
    """Results on their way to the host. Making it waits for nothing; `read` waits until they are there."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._host = [tensor if tensor.device.type == "cpu" else _on_the_way(tensor) for tensor in tensors]
        self._arrival = None
        if torch.cuda.is_available() and any(tensor.is_cuda for tensor in tensors):
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()

    def read(self) -> list[torch.Tensor]:
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._host


def _on_the_way(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available())
    return host.copy_(tensor, non_blocking=True)
