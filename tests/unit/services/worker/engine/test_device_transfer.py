"""Lists and arrays to a device and results back: the same numbers, one copy, nothing that waits."""

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from services.worker.engine.device_transfer import Download, PackedArrays, select_rows, upload, upload_all

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Copies(TorchDispatchMode):
    """Counts copies between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        places = {one.device.type for one in (*args, result) if isinstance(one, torch.Tensor)}
        if places == {"cpu", "cuda"}:
            self.found.append(str(function))
        return result


def test_values_arrive_in_their_type() -> None:
    assert upload([1, 2], CPU).dtype is torch.int64
    assert upload([0.5], CPU, torch.float64).dtype is torch.float64
    assert upload(np.array([True, False]), CPU).tolist() == [True, False]


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1, 1], []])
def test_selected_rows_are_those(rows: list[int]) -> None:
    tensor = torch.arange(6).view(3, 2)
    assert select_rows(tensor, rows).tolist() == [[2 * row, 2 * row + 1] for row in rows]
    assert (select_rows(tensor, rows) is tensor) is (rows == [0, 1, 2])


def test_packed_arrays_come_out_as_they_went_in() -> None:
    arrays = [
        np.arange(3, dtype=np.int64),
        np.arange(5, dtype=np.int32),
        np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
        np.zeros((0, 7), dtype=np.int64),
        np.array([-1], dtype=np.int64),
    ]
    packing = PackedArrays.like(arrays)
    packed = packing.pack(arrays)
    assert packed.numel() == packing.num_bytes == 32 + 32 + 32 + 0 + 16
    for array, tensor in zip(arrays, packing.unpack(packed), strict=True):
        assert tensor.tolist() == array.tolist()
        assert tensor.numpy().dtype == array.dtype
        assert tensor.shape == array.shape


def test_unpacked_arrays_are_views_of_the_buffer() -> None:
    arrays = [np.arange(3, dtype=np.int64), np.arange(2, dtype=np.int32)]
    packing = PackedArrays.like(arrays)
    buffer = packing.pack(arrays)
    first, second = packing.unpack(buffer)
    buffer.copy_(packing.pack([np.array([7, 8, 9]), np.array([5, 6], dtype=np.int32)]))
    assert (first.tolist(), second.tolist()) == ([7, 8, 9], [5, 6])


def test_many_arrays_travel_in_one_copy() -> None:
    arrays = [np.arange(3, dtype=np.int64), np.arange(4, dtype=np.int32)]
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        moved = upload_all(arrays, CUDA)
    assert copies.found == ["aten._to_copy.default"]
    assert [(tensor.device.type, tensor.dtype, tuple(tensor.shape)) for tensor in moved] == [
        ("cuda", torch.int64, (3,)),
        ("cuda", torch.int32, (4,)),
    ]


def test_on_a_processor_nothing_is_copied() -> None:
    array = np.arange(3)
    assert upload_all([array], CPU)[0].data_ptr() == array.ctypes.data
    result = torch.ones(2)
    assert Download([result]).read()[0] is result
