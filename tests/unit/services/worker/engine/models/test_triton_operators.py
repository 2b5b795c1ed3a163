"""The Triton operators against torch's, in the interpreter on a CPU, compiled where there is a card."""

import pytest
import torch

from services.worker.engine.models.decoder_operators import TorchOperators
from services.worker.engine.models.triton_operators import TritonOperators
from tests.attention_cases import make_layout

TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
WIDE = [pytest.param(shape, marks=pytest.mark.slow) for shape in [(33, 160), (300, 576), (7, 2048), (4, 4095)]]


@pytest.fixture(params=TOLERANCES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(2)
    return request.param  # type: ignore[no-any-return]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCES[expected.dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("shape", [(1, 576), (3, 96), (2, 7), *WIDE])
@pytest.mark.parametrize("weight_is_wide", [False, True])
def test_norms_are_equal(dtype: torch.dtype, shape: tuple[int, int], weight_is_wide: bool) -> None:
    hidden, update = torch.randn(shape).to(dtype) * 3, torch.randn(shape).to(dtype)
    weight = torch.randn(shape[1]).to(torch.float32 if weight_is_wide else dtype)
    before = hidden.clone()
    close(TritonOperators().rms_norm(hidden, weight, 1e-5), TorchOperators().rms_norm(hidden, weight, 1e-5))
    assert torch.equal(hidden, before)
    residual, other = hidden.clone(), hidden.clone()
    found = TritonOperators().add_rms_norm(residual, update, weight, 1e-5)
    close(found, TorchOperators().add_rms_norm(other, update, weight, 1e-5))
    close(residual, other)


@pytest.mark.parametrize("shape", [(1, 3072), (3, 10), (2, 2500), *WIDE[:2]])
def test_gates_are_equal(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    inputs = (torch.randn(shape) * 5).to(dtype)
    close(TritonOperators().silu_multiply(inputs), TorchOperators().silu_multiply(inputs))
    close(TritonOperators().gelu_multiply(inputs), TorchOperators().gelu_multiply(inputs))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size", "rotary_size"),
    [(9, 3, 64, 64), (4, 1, 80, 80), (2, 2, 6, 6), (4, 1, 80, 60), (4, 2, 16, 0), (6, 2, 128, 128)],
)
def test_rotation_and_cache_writes_are_equal(
    dtype: torch.dtype, heads: int, kv_heads: int, head_size: int, rotary_size: int
) -> None:
    layout = make_layout([(1, 40), (1, 3), (5, 9)])
    layout = type(layout)(
        **{name: getattr(layout, name) for name in layout.__slots__ if name != "slots"},
        slots=torch.randperm(8 * 16)[:7],
    )
    projected = torch.randn(7, (heads + 2 * kv_heads) * head_size).to(dtype)
    angles = torch.randn(64, rotary_size // 2)
    table = torch.cat([angles.cos(), angles.sin()], dim=1)
    found, expected = torch.zeros(2, 2, 8, 16, kv_heads, head_size).to(dtype)
    queries = TritonOperators().rotate_and_store(projected, table, found[0], found[1], layout, heads)
    close(queries, TorchOperators().rotate_and_store(projected, table, expected[0], expected[1], layout, heads))
    close(found, expected)
    assert int((found[1].flatten(2).abs().sum(-1) > 0).sum()) == 7


def test_a_slot_of_minus_one_is_written_nowhere() -> None:
    layout = make_layout([(1, 4), (1, 9)])
    layout = type(layout)(
        **{name: getattr(layout, name) for name in layout.__slots__ if name != "slots"},
        slots=torch.tensor([-1, 5]),
    )
    projected = torch.randn(2, 4 * 8)
    table = torch.cat([torch.ones(16, 4), torch.zeros(16, 4)], dim=1)
    cache = torch.zeros(2, 2, 4, 1, 8)
    TritonOperators().rotate_and_store(projected, table, cache[0], cache[1], layout, 2)
    written = cache.abs().sum(-1).flatten(1) > 0
    assert written.nonzero().tolist() == [[0, 5], [1, 5]]
