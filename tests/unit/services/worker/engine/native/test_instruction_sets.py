"""The kernels without AVX-512, and without AVX2: the same numbers as with them."""

import ctypes
from pathlib import Path

import pytest
import torch

from services.worker.engine.models.linear import NativeLinear
from services.worker.engine.models.quantized_native import IntegerLinear, TableLinear
from services.worker.engine.native.build import CACHE_VARIABLE, NoNativeKernels, build
from services.worker.engine.native.library import Products, load_products
from services.worker.engine.native.quantized_library import QuantizedKernels, load_quantized_kernels
from tests.quantized_matrices import quantized_matrix, six_bit_matrix, some_inputs


@pytest.mark.slow
@pytest.mark.parametrize("without", [("avx512f",), ("avx512f", "avx2")])
def test_older_processors_compute_the_same(
    without: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    here = load_quantized_kernels()
    try:
        older = QuantizedKernels(ctypes.CDLL(str(build(with_openmp=False, without=without))))
    except NoNativeKernels as reason:
        pytest.skip(str(reason))
    assert here is not None
    assert older.has_fast_table is ("avx2" not in without)
    inputs = some_inputs(7, 192)
    for scheme in ("rtn-int8", "rtn-int4-g32-a8", "rtn-int4-g32-asym-a8", "rtn-int2-g64-a8", "six bits"):
        weight = six_bit_matrix(53, 192, 64) if scheme == "six bits" else quantized_matrix(scheme, 53, 192)
        found = IntegerLinear(older, weight, None, wide_output=True)(inputs)
        expected = IntegerLinear(here, weight, None, wide_output=True)(inputs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for scheme in ("rtn-int8-a16", "rtn-int4-g32", "rtn-int4-g32-asym", "rtn-fp8"):
        weight = quantized_matrix(scheme, 53, 192)
        found = TableLinear(older, weight, None, wide_output=True)(inputs)
        expected = TableLinear(here, weight, None, wide_output=True)(inputs)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("without", ["avx512bf16", "avx512f"])
def test_without_the_instruction_for_bfloat16_products_are_the_same_bits(
    without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    here = load_products()
    try:
        older = Products(ctypes.CDLL(str(build(with_openmp=False, without=(without,)))))
    except NoNativeKernels as reason:
        pytest.skip(str(reason))
    assert here is not None
    if not here.are_fast:
        pytest.skip("neither AVX-512 nor AVX2 here")
    assert older.are_fast
    weight = torch.randn(70, 192).bfloat16()
    for rows in (1, 2, 3, 11):
        inputs = torch.randn(rows, 192).bfloat16()
        expected = NativeLinear(here, weight, None, torch.float32)(inputs)
        for is_wide in (0, 1):
            older.use_wide(is_wide)
            assert torch.equal(NativeLinear(older, weight, None, torch.float32)(inputs), expected)
