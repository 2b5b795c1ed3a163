"""GPTQ against what it must be at least: rounding without looking back."""

import pytest
import torch

from services.worker.engine.calibration.clipping import quantize_clipped
from services.worker.engine.calibration.gptq import inverse_factor, second_order_quantize
from services.worker.engine.calibration.site_statistics import output_error
from services.worker.engine.quantization.rounding import quantize
from services.worker.engine.quantization.scheme import QuantizationScheme, integers


def correlated_inputs(tokens: int = 512, columns: int = 96, seed: int = 0) -> torch.Tensor:
    """Columns that have much to do with each other, some a hundred times larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns // 4, columns, generator=generator)
    inputs = torch.randn(tokens, columns // 4, generator=generator) @ mixing
    inputs += 0.1 * torch.randn(tokens, columns, generator=generator)
    return inputs * 10 ** torch.rand(columns, generator=generator)


def moments(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.T @ inputs / inputs.shape[0]


WEIGHT = torch.randn(40, 96, generator=torch.Generator().manual_seed(9))
SCHEMES = [
    integers(4, group_size=32),
    integers(4, group_size=32, is_symmetric=False),
    integers(4),
    integers(2, group_size=32, is_symmetric=False),
    integers(8),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
@pytest.mark.parametrize("act_order", [True, False])
def test_the_output_error_is_less_than_half_of_plain_roundings(scheme: QuantizationScheme, act_order: bool) -> None:
    gram = moments(correlated_inputs())
    tensor = second_order_quantize(WEIGHT, gram, scheme, scale_dtype=torch.float32, act_order=act_order)
    plain = quantize(WEIGHT, scheme)
    error = output_error(tensor.dequantize() - WEIGHT, gram)
    assert error < 0.5 * output_error(plain.dequantize() - WEIGHT, gram)
    assert error < 0.5 * output_error(
        quantize_clipped(WEIGHT, scheme, gram, scale_dtype=torch.float32).dequantize() - WEIGHT, gram
    )


def test_columns_that_have_nothing_to_do_with_each_other_are_rounded_one_by_one() -> None:
    gram = torch.diag(torch.rand(96, generator=torch.Generator().manual_seed(2)) + 0.5)
    for scheme in SCHEMES:
        tensor = second_order_quantize(WEIGHT, gram, scheme, scale_dtype=torch.float32)
        assert torch.equal(tensor.codes, quantize_clipped(WEIGHT, scheme, gram, scale_dtype=torch.float32).codes)


def test_the_order_of_columns_leaves_no_trace_in_the_layout() -> None:
    tensor = second_order_quantize(
        WEIGHT, moments(correlated_inputs()), integers(4, group_size=32), scale_dtype=torch.bfloat16
    )
    assert tensor.group_index is None
    assert tensor.scales.dtype is torch.bfloat16
    assert (tensor.dequantize() - WEIGHT).abs().mean() < 0.5 * WEIGHT.abs().mean()


def test_the_same_input_gives_the_same_codes() -> None:
    gram = moments(correlated_inputs())
    first, second = (second_order_quantize(WEIGHT, gram, SCHEMES[1], scale_dtype=torch.float32) for _ in range(2))
    assert torch.equal(first.codes, second.codes)


def test_fewer_tokens_than_columns_and_silent_columns_are_no_obstacle() -> None:
    inputs = correlated_inputs(tokens=20)
    inputs[:, 5] = 0
    gram = moments(inputs)
    tensor = second_order_quantize(WEIGHT, gram, integers(4, group_size=32), scale_dtype=torch.float32)
    assert tensor.dequantize().isfinite().all()
    plain = quantize(WEIGHT, integers(4, group_size=32)).dequantize()
    assert output_error(tensor.dequantize() - WEIGHT, gram) < output_error(plain - WEIGHT, gram)


def test_the_factor_is_that_of_the_inverse() -> None:
    gram = moments(correlated_inputs())
    factor = inverse_factor(gram).double()
    damped = gram.double() + 0.01 * gram.double().diagonal().mean() * torch.eye(96, dtype=torch.float64)
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(96, dtype=torch.float64), rtol=0, atol=1e-3)
    assert torch.equal(factor, factor.triu())


def test_a_matrix_of_zeros_has_a_factor() -> None:
    assert inverse_factor(torch.zeros(4, 4)).isfinite().all()
