from typing import Any

import pytest
import torch

from services.worker.engine.calibration.awq import ActivationAware
from services.worker.engine.calibration.gptq import SecondOrder
from services.worker.engine.calibration.method import RoundToNearest
from services.worker.engine.calibration.method_choice import METHODS, QuantizationChoice, choose_method
from services.worker.engine.calibration.smoothquant import SmoothQuant
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.engine.quantization.scheme import NumberFormat, QuantizationScheme, integers


@pytest.mark.parametrize(
    ("choice", "method", "weights", "has_byte_inputs"),
    [
        ({"method": "rtn"}, RoundToNearest, integers(4, group_size=64, is_symmetric=False), False),
        ({"method": "rtn", "bits": 8, "activation_bits": 8}, RoundToNearest, integers(8), True),
        ({"method": "rtn", "bits": 2, "group_size": 0}, RoundToNearest, integers(2, is_symmetric=False), False),
        ({"method": "awq", "group_size": 128}, ActivationAware, integers(4, group_size=128, is_symmetric=False), False),
        ({"method": "gptq", "is_symmetric": True}, SecondOrder, integers(4, group_size=64), False),
        ({"method": "smoothquant"}, SmoothQuant, integers(8, group_size=64), True),
        ({"method": "smoothquant", "group_size": 0}, SmoothQuant, integers(8), True),
        ({"method": "fp8"}, RoundToNearest, QuantizationScheme(bits=8, number_format=NumberFormat.FLOAT8_E4M3), False),
    ],
)
def test_each_method_has_its_own_defaults(
    choice: dict[str, Any], method: type, weights: QuantizationScheme, has_byte_inputs: bool
) -> None:
    chosen, scheme = choose_method(QuantizationChoice(**choice), dtype="bfloat16")
    assert type(chosen) is method
    assert scheme.weights == weights
    assert scheme.activations == (integers(8, group_size=weights.group_size) if has_byte_inputs else None)
    assert scheme.scale_dtype is torch.bfloat16


@pytest.mark.parametrize("method", ["rtn", "smoothquant", "awq", "gptq"])
def test_groups_of_inputs_are_those_of_the_weights_whatever_the_width(method: str) -> None:
    bits = None if method == "smoothquant" else 8
    choice = QuantizationChoice(method=method, bits=bits, group_size=128, activation_bits=8)
    _, scheme = choose_method(choice, dtype="bfloat16")
    assert scheme.activations == integers(8, group_size=128)
    assert [scheme.activations_for(columns) for columns in (1536, 576)] == [
        integers(8, group_size=128),
        integers(8, group_size=96),
    ]


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({"method": "magic"}, "'magic' is not one of rtn, smoothquant, awq, gptq, fp8"),
        ({"method": "awq", "bits": 3}, "3 bits are not supported"),
        ({"method": "smoothquant", "bits": 4}, "smoothquant makes weights and inputs of 8 bits"),
        ({"method": "smoothquant", "is_symmetric": False}, "smoothquant's weights are symmetric"),
        ({"method": "fp8", "bits": 4}, "fp8 has 8 bits"),
        ({"method": "fp8", "is_symmetric": False}, "no zero point"),
        ({"method": "fp8", "activation_bits": 8}, "inputs can have 8 bits beside integer weights"),
        ({"method": "rtn", "activation_bits": 4}, "inputs can have 8 bits"),
    ],
)
def test_what_does_not_go_together_is_said(choice: dict[str, Any], problem: str) -> None:
    with pytest.raises(QuantizationError, match=problem):
        choose_method(QuantizationChoice(**choice), dtype="float32")


def test_every_method_can_be_chosen_without_saying_more() -> None:
    for method in METHODS:
        choose_method(QuantizationChoice(method=method), dtype="float16")
