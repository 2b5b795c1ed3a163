"""What rounding promises for every matrix: half a step at most, codes in range, and the same again the second time."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.engine.quantization.packing import pack_codes, packed_bytes, unpack_codes
from services.worker.engine.quantization.rounding import choose_scales, quantize, round_trip, round_with
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme

GROUP_SIZES = (1, 2, 32, 64, 128)
SLACK = 1e-5
"""Float32's own rounding, as a share of the largest value of a group, in steps of up to 255."""


@st.composite
def schemes(draw: st.DrawFn) -> QuantizationScheme:
    granularity = draw(st.sampled_from(Granularity))
    return QuantizationScheme(
        bits=draw(st.sampled_from((2, 4, 8))),
        granularity=granularity,
        group_size=draw(st.sampled_from(GROUP_SIZES)) if granularity is Granularity.GROUP else None,
        is_symmetric=draw(st.booleans()),
    )


@st.composite
def matrices(draw: st.DrawFn, scheme: QuantizationScheme) -> torch.Tensor:
    """Random values of any size, with exact zeros, outliers, one-sided rows and rows of zeros among them."""
    rows, groups = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    columns = groups * (scheme.group_size or draw(st.integers(1, 67)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-30, 30))
    shape = draw(st.sampled_from(("plain", "positive", "negative", "sparse", "outlier", "constant", "zero row")))
    if shape == "positive":
        values = values.abs()
    elif shape == "negative":
        values = -values.abs()
    elif shape == "sparse":
        values *= torch.rand(rows, columns, generator=generator) < 0.2
    elif shape == "outlier":
        values[0, 0] *= 1000
    elif shape == "constant":
        values = torch.full_like(values, values[0, 0].item())
    elif shape == "zero row":
        values[0] = 0
    return values


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, QuantizationScheme]:
    scheme = draw(schemes())
    return draw(matrices(scheme)), scheme


def _per_value(per_group: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if per_group.shape[1] > 1:
        per_group = per_group.repeat_interleave(shape[1] // per_group.shape[1], dim=1)
    return per_group.expand(shape)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_no_value_moves_by_more_than_half_a_step(case: tuple[torch.Tensor, QuantizationScheme]) -> None:
    values, scheme = case
    quantized = quantize(values, scheme)
    steps = _per_value(quantized.scales, values.shape).double()
    error = (quantized.dequantize().double() - values.double()).abs()
    assert bool((error <= steps / 2 + SLACK * steps * scheme.num_levels).all())


@settings(max_examples=60, deadline=None)
@given(cases())
def test_codes_stay_in_range_and_symmetric_ones_never_use_the_lowest(
    case: tuple[torch.Tensor, QuantizationScheme],
) -> None:
    values, scheme = case
    quantized = quantize(values, scheme)
    integers = quantized.integers()
    if scheme.is_symmetric:
        assert int(integers.abs().max()) <= scheme.highest
    else:
        codes = unpack_codes(quantized.codes, scheme.bits, values.shape[1])
        assert int(codes.min()) >= 0
        assert int(codes.max()) < 2**scheme.bits


@settings(max_examples=60, deadline=None)
@given(cases())
def test_what_was_rounded_once_is_not_changed_by_rounding_it_again(
    case: tuple[torch.Tensor, QuantizationScheme],
) -> None:
    values, scheme = case
    once = quantize(values, scheme)
    again = quantize(once.dequantize(), scheme)
    torch.testing.assert_close(again.dequantize(), once.dequantize(), rtol=1e-5, atol=0)
    assert torch.equal(again.codes, once.codes)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_zero_stays_exactly_zero(case: tuple[torch.Tensor, QuantizationScheme]) -> None:
    values, scheme = case
    values[0] = 0
    assert bool((quantize(values, scheme).dequantize()[values == 0] == 0).all())


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_short_way_of_a_search_is_the_long_way_through_packed_codes(
    case: tuple[torch.Tensor, QuantizationScheme],
) -> None:
    values, scheme = case
    scales, zero_points = choose_scales(values, scheme, shrink=0.8)
    packed = round_with(values, scheme, scales, zero_points)
    assert torch.equal(round_trip(values, scheme, scales, zero_points), packed.dequantize())


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from((torch.bfloat16, torch.float16)))
def test_a_scale_of_sixteen_bits_costs_what_its_own_rounding_costs(
    case: tuple[torch.Tensor, QuantizationScheme], dtype: torch.dtype
) -> None:
    values, scheme = case
    values = values / values.abs().max().clamp(min=1e-37) + 0.0
    quantized = quantize(values, scheme, scale_dtype=dtype)
    assert quantized.scales.dtype is dtype
    steps = _per_value(quantized.scales.float(), values.shape)
    largest = steps * scheme.num_levels
    error = (quantized.dequantize() - values).abs()
    assert bool((error <= steps / 2 + torch.finfo(dtype).eps * largest).all())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from((2, 4, 8)),
    st.lists(st.integers(1, 9), min_size=0, max_size=2),
    st.integers(1, 131),
    st.integers(0, 2**31),
)
def test_packing_and_unpacking_are_inverse_for_every_width_and_odd_shape(
    bits: int, outer: list[int], columns: int, seed: int
) -> None:
    codes = torch.randint(0, 2**bits, (*outer, columns), generator=torch.Generator().manual_seed(seed))
    packed = pack_codes(codes, bits)
    assert packed.shape == (*outer, -(-columns * bits // 8))
    assert packed.shape[-1] == packed_bytes(columns, bits)
    assert torch.equal(unpack_codes(packed, bits, columns), codes.to(torch.uint8))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from((NumberFormat.FLOAT8_E4M3, NumberFormat.FLOAT8_E5M2)),
    st.sampled_from((Granularity.TENSOR, Granularity.CHANNEL)),
    st.integers(0, 2**31),
    st.integers(-20, 20),
)
def test_a_float_of_eight_bits_is_right_to_its_mantissa(
    number_format: NumberFormat, granularity: Granularity, seed: int, exponent: int
) -> None:
    """E4M3 keeps 3 bits of mantissa, E5M2 two; below the smallest normal number the step is fixed."""
    values = torch.randn(4, 40, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    scheme = QuantizationScheme(bits=8, granularity=granularity, number_format=number_format)
    quantized = quantize(values, scheme)
    mantissa_bits, smallest_normal = (3, 2.0**-6) if number_format is NumberFormat.FLOAT8_E4M3 else (2, 2.0**-14)
    floor = quantized.scales * smallest_normal
    bound = torch.maximum(values.abs(), floor) * 2.0 ** -(mantissa_bits + 1) * 1.0001
    assert bool(((quantized.dequantize() - values).abs() <= bound).all())
