"""What is done to a checkpoint's weights when it is loaded, by the name that settings and command lines use.

`none`: 16 bit, whatever was stored. `keep`: in the precision they are stored in; `keep-head8`: and a head that is
stored in 16 bits is rounded to 8. `rtn-...`: all rounded to nearest now.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.worker.engine.config import ROUNDING_NAME, EngineRefused
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.engine.quantization.scheme import (
    Granularity,
    NumberFormat,
    QuantizationScheme,
    integers,
)

NONE = "none"
KEEP = "keep"
KEEP_WITH_HEAD = "keep-head8"

_ROUNDING = re.compile(ROUNDING_NAME)
_FLOATS = {"fp8": NumberFormat.FLOAT8_E4M3, "fp8e5m2": NumberFormat.FLOAT8_E5M2}
_ACTIVATION_BITS = 8


class UnknownQuantization(QuantizationError, EngineRefused):
    def __init__(self, text: str) -> None:
        super().__init__(
            f"unknown quantization {text!r}: none, keep, keep-head8, or rtn-FORMAT[-gSIZE][-asym][-a8|-a16] with "
            "int2, int4, int8, fp8 or fp8e5m2, for example rtn-int8 or rtn-int4-g64-a8"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTimeRounding:
    """`activations` None: products with 16-bit inputs. The head's weights have 8 bits a row at least."""

    weights: QuantizationScheme
    activations: QuantizationScheme | None
    head: QuantizationScheme
    head_activations: QuantizationScheme | None


def parse_rounding(name: str) -> LoadTimeRounding | None:
    """None for `none`, `keep` and `keep-head8`. Raises UnknownQuantization, and QuantizationError for what does not go
    together.

    INT8 multiplies with 8-bit inputs unless `-a16` is said, the others with 16-bit ones unless `-a8` is. Inputs are
    rounded per token, or per token and group where weights have groups. The head is INT8 per row wherever the layers
    have fewer bits, else as they are; a table of embeddings stays in 16 bits, it is only looked up.
    """
    if name in (NONE, KEEP, KEEP_WITH_HEAD):
        return None
    match = _ROUNDING.fullmatch(name)
    if match is None:
        raise UnknownQuantization(name)
    number_format = match["format"]
    group_size = int(match["group"]) if match["group"] else None
    is_symmetric = match["asym"] is None
    if number_format in _FLOATS:
        weights = QuantizationScheme(
            bits=8,
            granularity=Granularity.CHANNEL if group_size is None else Granularity.GROUP,
            group_size=group_size,
            is_symmetric=is_symmetric,
            number_format=_FLOATS[number_format],
        )
        head = QuantizationScheme(bits=8, number_format=_FLOATS[number_format])
    else:
        weights = integers(int(number_format[3:]), group_size=group_size, is_symmetric=is_symmetric)
        head = integers(8)
    has_small_inputs = match["activations"] == "8" or (number_format == "int8" and match["activations"] is None)
    if not has_small_inputs:
        return LoadTimeRounding(weights=weights, activations=None, head=head, head_activations=None)
    return LoadTimeRounding(
        weights=weights,
        activations=integers(_ACTIVATION_BITS, group_size=group_size),
        head=head,
        head_activations=integers(_ACTIVATION_BITS),
    )
