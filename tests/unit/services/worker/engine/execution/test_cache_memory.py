"""The KV cache's memory: zeros that cost nothing until they are written."""

import os

import psutil
import pytest
import torch

from services.worker.engine.execution.cache_memory import zeros

CPU = torch.device("cpu")
MIB = 1 << 20


def resident_bytes() -> int:
    return int(psutil.Process(os.getpid()).memory_info().rss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_cache_has_shape_and_type_and_is_all_zero(dtype: torch.dtype) -> None:
    cache = zeros((2, 2, 5, 16, 3, 8), dtype=dtype, device=CPU)
    assert cache.shape == (2, 2, 5, 16, 3, 8)
    assert cache.dtype is dtype
    assert cache.is_contiguous()
    assert torch.count_nonzero(cache) == 0


def test_the_cache_is_aligned_to_a_cache_line() -> None:
    assert [zeros((n, 3), dtype=torch.bfloat16, device=CPU).data_ptr() % 64 for n in (1, 7, 1000, 100_000)] == [0] * 4


def test_a_gibibyte_of_cache_takes_memory_only_where_it_is_written() -> None:
    before = resident_bytes()
    cache = zeros((1024, MIB), dtype=torch.uint8, device=CPU)
    assert resident_bytes() - before < 64 * MIB
    cache[:100] = 1
    assert 90 * MIB < resident_bytes() - before < 164 * MIB


def test_writes_stay_where_they_are_made() -> None:
    cache = zeros((4, 6), dtype=torch.float32, device=CPU)
    cache[2, 3] = 7
    assert cache.sum() == 7
    assert cache[2, 3] == 7
