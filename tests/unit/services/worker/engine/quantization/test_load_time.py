"""Names of load-time quantization: what each means, and which mean nothing."""

import pytest

from services.worker.engine.quantization.load_time import UnknownQuantization, parse_rounding
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.engine.quantization.scheme import NumberFormat, integers


def test_int8_multiplies_with_bytes_unless_told_otherwise() -> None:
    rounding = parse_rounding("rtn-int8")
    assert rounding is not None
    assert (rounding.weights, rounding.activations) == (integers(8), integers(8))
    wide = parse_rounding("rtn-int8-a16")
    assert wide is not None
    assert (wide.weights, wide.activations, wide.head_activations) == (integers(8), None, None)


def test_int4_takes_its_group_for_weights_and_inputs_and_leaves_the_head_in_eight_bits() -> None:
    rounding = parse_rounding("rtn-int4-g64-asym-a8")
    assert rounding is not None
    assert rounding.weights == integers(4, group_size=64, is_symmetric=False)
    assert rounding.activations == integers(8, group_size=64)
    assert rounding.head == rounding.head_activations == integers(8)


def test_floats_are_named_by_their_exponent() -> None:
    for name, number_format in (("rtn-fp8", NumberFormat.FLOAT8_E4M3), ("rtn-fp8e5m2", NumberFormat.FLOAT8_E5M2)):
        rounding = parse_rounding(name)
        assert rounding is not None
        assert rounding.weights.number_format is rounding.head.number_format is number_format


@pytest.mark.parametrize("name", ["none", "keep", "keep-head8"])
def test_what_rounds_nothing_has_no_rounding(name: str) -> None:
    assert parse_rounding(name) is None


@pytest.mark.parametrize("name", ["", "int8", "rtn-int3", "rtn-int4-g", "rtn-int4-a4", "rtn-int8 ", "RTN-INT8"])
def test_other_names_are_refused_with_the_ones_that_are(name: str) -> None:
    with pytest.raises(UnknownQuantization, match="none, keep, keep-head8, or rtn-FORMAT"):
        parse_rounding(name)


def test_floats_have_no_zero_point_to_be_asymmetric_with() -> None:
    with pytest.raises(QuantizationError, match="symmetric"):
        parse_rounding("rtn-fp8-asym")
