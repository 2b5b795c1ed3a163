"""The native operators against torch's, in both element types."""

import math

import pytest
import torch

from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.models.decoder_operators import TorchOperators
from services.worker.engine.models.native_operators import NativeOperators
from services.worker.engine.native.library import load_kernels

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(2)
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def native(dtype: torch.dtype) -> NativeOperators:
    kernels = load_kernels(dtype)
    if kernels is None:
        pytest.skip("no C compiler here")
    return NativeOperators(kernels)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("shape", [(1, 576), (33, 160), (300, 576), (2, 7)])
def test_norms_are_equal(native: NativeOperators, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    hidden, update = torch.randn(shape).to(dtype) * 3, torch.randn(shape).to(dtype)
    weight = torch.randn(shape[1]).to(dtype)
    close(native.rms_norm(hidden, weight, 1e-5), TorchOperators().rms_norm(hidden, weight, 1e-5))
    residual, other = hidden.clone(), hidden.clone()
    found = native.add_rms_norm(residual, update, weight, 1e-5)
    close(found, TorchOperators().add_rms_norm(other, update, weight, 1e-5))
    assert torch.equal(residual, other)


@pytest.mark.parametrize("shape", [(1, 3072), (50, 96), (3, 10)])
def test_gates_are_equal(native: NativeOperators, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    inputs = (torch.randn(shape) * 20).to(dtype)
    close(native.silu_multiply(inputs), TorchOperators().silu_multiply(inputs))
    close(native.gelu_multiply(inputs), TorchOperators().gelu_multiply(inputs))


def test_a_float32_norm_weight_is_multiplied_before_rounding(native: NativeOperators, dtype: torch.dtype) -> None:
    hidden, update = torch.randn(5, 64).to(dtype), torch.randn(5, 64).to(dtype)
    weight = 1 + torch.randn(64) * 0.01
    exact = torch.nn.functional.rms_norm((hidden + update).float(), (64,), weight, 1e-5).to(dtype)
    for operators in (native, TorchOperators()):
        assert torch.equal(operators.rms_norm(hidden + update, weight, 1e-5), exact) or dtype is torch.float32
        close(operators.add_rms_norm(hidden.clone(), update, weight, 1e-5), exact)


def test_what_is_not_a_number_stays_one(native: NativeOperators, dtype: torch.dtype) -> None:
    inputs = torch.full((1, 8), math.nan).to(dtype)
    assert native.silu_multiply(inputs).isnan().all()
    assert native.gelu_multiply(inputs).isnan().all()
    assert native.rms_norm(inputs, torch.ones(8).to(dtype), 1e-5).isnan().all()


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size", "rotary_size"),
    [(9, 3, 64, 64), (4, 1, 80, 80), (2, 2, 6, 6), (4, 1, 80, 60), (4, 2, 16, 0)],
)
def test_rotation_and_cache_writes_are_equal(
    native: NativeOperators, dtype: torch.dtype, heads: int, kv_heads: int, head_size: int, rotary_size: int
) -> None:
    num_tokens, num_blocks = 21, 8
    projected = torch.randn(num_tokens, (heads + 2 * kv_heads) * head_size).to(dtype)
    angles = torch.randn(100, rotary_size // 2)
    table = torch.cat([angles.cos(), angles.sin()], dim=1)
    slots = torch.randperm(num_blocks * 16)[:num_tokens]
    layout = StepLayout(
        positions=torch.randint(0, 100, (num_tokens,)),
        slots=slots,
        block_tables=torch.empty(0, dtype=torch.int32),
        context_lengths=torch.empty(0, dtype=torch.int32),
        query_starts=torch.empty(0, dtype=torch.int32),
        context_length_list=[],
        query_start_list=[],
        num_single=0,
        block_size_tokens=16,
    )
    found_cache = torch.zeros(2, num_blocks, 16, kv_heads, head_size).to(dtype)
    expected_cache = found_cache.clone()
    found = native.rotate_and_store(projected, table, found_cache[0], found_cache[1], layout, heads)
    expected = TorchOperators().rotate_and_store(projected, table, expected_cache[0], expected_cache[1], layout, heads)
    close(found, expected)
    close(found_cache, expected_cache)
    assert int((found_cache[1].flatten(2).abs().sum(-1) > 0).sum()) == num_tokens
    passing = projected.view(num_tokens, -1, head_size)[:, :heads, rotary_size:]
    assert torch.equal(found[:, :, rotary_size:], passing)
