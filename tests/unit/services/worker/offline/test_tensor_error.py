"""The sine's errors follow from their formulas."""

import math

import pytest
import torch

from services.worker.offline.tensor_error import BITS, GROUP_SIZES, measure_tensor_error, sine, tensor_errors


def test_the_tensor_is_the_sine_of_ten_thousand_steps() -> None:
    values = sine()
    assert values.shape == (1, 10_000)
    assert values[0, 1234].item() == math.sin(1.234)


@pytest.mark.parametrize(("bits", "highest"), [(8, 127), (4, 7), (2, 1)])
def test_the_figures_per_tensor_follow_from_the_formula(bits: int, highest: int) -> None:
    """Computed again here from the definition, value by value, without the package under test."""
    values = [math.sin(0.001 * index) for index in range(10_000)]
    scale = max(map(abs, values)) / highest
    errors = [value - scale * round(value / scale) for value in values]
    measured = measure_tensor_error(sine(), bits, None)
    assert measured.scale == pytest.approx(scale, rel=1e-6)
    assert measured.mean_squared == pytest.approx(sum(error**2 for error in errors) / 10_000, rel=1e-4)
    assert measured.mean_absolute == pytest.approx(sum(map(abs, errors)) / 10_000, rel=1e-4)
    assert measured.largest == pytest.approx(max(map(abs, errors)), rel=1e-4)
    assert measured.analytic == pytest.approx(scale**2 / 12, rel=1e-6)
    power = sum(value**2 for value in values) / 10_000
    assert measured.sqnr_decibels == pytest.approx(10 * math.log10(power / measured.mean_squared), rel=1e-6)


def test_eight_bits_are_what_theory_says_and_no_error_exceeds_half_a_step() -> None:
    for error in tensor_errors():
        assert error.largest <= 0.5 * torch.tensor(error.scale).item() * 1.7
        if error.group_size is None:
            assert error.largest <= error.scale / 2 * 1.0001
    assert 0.9 < tensor_errors()[0].mean_squared / tensor_errors()[0].analytic < 1


def test_there_is_a_row_for_every_width_and_granularity_and_finer_is_better() -> None:
    errors = {(error.bits, error.group_size): error.mean_squared for error in tensor_errors()}
    assert set(errors) == {(bits, size) for bits in BITS for size in GROUP_SIZES}
    for bits in BITS:
        assert errors[bits, 50] < errors[bits, 125] < errors[bits, None]
