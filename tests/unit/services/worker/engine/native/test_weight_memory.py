"""Many matrices in few huge pages: each has its own place, and keeps it for as long as it is used."""

import gc
import mmap

import pytest
import torch

from services.worker.engine.native import weight_memory
from services.worker.engine.native.weight_memory import WeightMemory


def test_tensors_do_not_overlap_and_begin_with_a_cache_line() -> None:
    memory = WeightMemory()
    tensors = [memory.empty((3, size), torch.bfloat16) for size in (1, 31, 32, 33, 1000)]
    for index, tensor in enumerate(tensors):
        assert not tensor.any()
        tensor.fill_(index + 1)
    for index, tensor in enumerate(tensors):
        assert tensor.data_ptr() % 64 == 0
        assert (tensor == index + 1).all()


def test_what_fits_no_chunk_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_memory, "_CHUNK_BYTES", 4096)
    memory = WeightMemory()
    small, large = memory.empty((100,), torch.uint8), memory.empty((5 << 20,), torch.uint8)
    large.fill_(3)
    assert not small.any()
    assert large.data_ptr() % (2 << 20) == 0


def test_a_matrix_outlives_the_memory_it_came_from() -> None:
    copied = WeightMemory().copy(torch.arange(1000).view(10, 100).t())
    gc.collect()
    assert copied.is_contiguous()
    assert torch.equal(copied, torch.arange(1000).view(10, 100).t())
    assert WeightMemory().empty((0, 4), torch.float32).shape == (0, 4)


def test_a_kernel_without_huge_pages_gives_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *arguments: int) -> None:
            raise OSError("not compiled in")

    monkeypatch.setattr(weight_memory.mmap, "mmap", Refusing)
    assert WeightMemory().copy(torch.ones(5)).tolist() == [1.0] * 5
