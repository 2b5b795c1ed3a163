"""From what a user asks for to a method and its scheme. Says what does not go together before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.worker.engine.calibration.awq import ActivationAware
from services.worker.engine.calibration.gptq import SecondOrder
from services.worker.engine.calibration.method import LayerScheme, QuantizationMethod, RoundToNearest
from services.worker.engine.calibration.smoothquant import SmoothQuant
from services.worker.engine.quantization.quantization_error import UnsupportedScheme
from services.worker.engine.quantization.scheme import NumberFormat, QuantizationScheme, integers

METHODS = ("rtn", "smoothquant", "awq", "gptq", "fp8")
_DEFAULT_GROUP_SIZE = 64
_BYTE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationChoice:
    """None is the method's own choice. `group_size` 0 is one scale for each row.

    Inputs of 8 bits have a scale for each token, and for each group of columns where weights have groups.
    """

    method: str
    bits: int | None = None
    group_size: int | None = None
    is_symmetric: bool | None = None
    activation_bits: int | None = None


def choose_method(choice: QuantizationChoice, *, dtype: str) -> tuple[QuantizationMethod, LayerScheme]:
    """`dtype` is the checkpoint's: scales are kept in it. Raises QuantizationError."""
    if choice.method not in METHODS:
        raise UnsupportedScheme(f"{choice.method!r} is not one of {', '.join(METHODS)}")
    has_byte_inputs = choice.method == "smoothquant"
    if choice.activation_bits is not None:
        if choice.activation_bits != _BYTE or choice.method == "fp8":
            raise UnsupportedScheme("inputs can have 8 bits beside integer weights, else they are not rounded")
        has_byte_inputs = True
    weights = _float8(choice) if choice.method == "fp8" else _integers(choice)
    scheme = LayerScheme(
        weights=weights,
        activations=integers(_BYTE, group_size=weights.group_size) if has_byte_inputs else None,
        scale_dtype=getattr(torch, dtype),
    )
    return _METHODS[choice.method](scheme), scheme


def _integers(choice: QuantizationChoice) -> QuantizationScheme:
    bits = choice.bits or (_BYTE if choice.method == "smoothquant" else 4)
    if choice.method == "smoothquant" and bits != _BYTE:
        raise UnsupportedScheme("smoothquant makes weights and inputs of 8 bits")
    group_size = choice.group_size
    if group_size is None and (bits != _BYTE or choice.method == "smoothquant"):
        group_size = _DEFAULT_GROUP_SIZE
    is_symmetric = bits == _BYTE if choice.is_symmetric is None else choice.is_symmetric
    if choice.method == "smoothquant" and not is_symmetric:
        raise UnsupportedScheme("smoothquant's weights are symmetric")
    return integers(bits, group_size=group_size or None, is_symmetric=is_symmetric)


def _float8(choice: QuantizationChoice) -> QuantizationScheme:
    if choice.bits not in (None, _BYTE) or choice.group_size or choice.is_symmetric is False:
        raise UnsupportedScheme("fp8 has 8 bits, one scale for each row and no zero point")
    return QuantizationScheme(bits=_BYTE, number_format=NumberFormat.FLOAT8_E4M3)


_METHODS: dict[str, type[RoundToNearest] | type[SmoothQuant] | type[ActivationAware] | type[SecondOrder]] = {
    "rtn": RoundToNearest,
    "fp8": RoundToNearest,
    "smoothquant": SmoothQuant,
    "awq": ActivationAware,
    "gptq": SecondOrder,
}
