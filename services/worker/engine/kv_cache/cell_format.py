"""In which precision each layer's keys and values are kept, by the name that settings and command lines use.

`16bit`, `int8`, `fp8`, `int4`; or a cascade over the layers from the first on: `int4*10,int8*10,16bit`. Knows no torch.
"""

from __future__ import annotations

import re
from enum import IntEnum

from services.worker.engine.config import EngineRefused

SIXTEEN_BIT = "16bit"

_PART = re.compile(r"(?P<name>16bit|int8|fp8|int4)(\*(?P<count>[1-9]\d*))?")


class CellFormat(IntEnum):
    """The numbers are those of native/quantized_attention.c."""

    INT8 = 1
    FP8 = 2
    INT4 = 3
    INT8_UPPER = 4
    """Cells of INT8 of which only the upper halves are read: how a draft sees them."""


_FORMATS = {SIXTEEN_BIT: None, "int8": CellFormat.INT8, "fp8": CellFormat.FP8, "int4": CellFormat.INT4}


class UnknownCachePrecision(EngineRefused):
    def __init__(self, text: str) -> None:
        super().__init__(
            f"unknown KV cache precision {text!r}: 16bit, int8, fp8, int4, or FORMAT*LAYERS parts with commas between, "
            "the last one for all layers that are left: int4*10,int8*10,16bit"
        )


class CascadeDoesNotFit(EngineRefused):
    def __init__(self, text: str, num_layers: int) -> None:
        super().__init__(f"KV cache precision {text!r} does not name every one of {num_layers} layers exactly once")


def layer_formats(text: str, num_layers: int) -> tuple[CellFormat | None, ...]:
    """One for each layer in turn; None is 16 bit, the model's own type.

    Raises UnknownCachePrecision, CascadeDoesNotFit.
    """
    parts = _parts(text)
    formats: list[CellFormat | None] = []
    for place, (cell_format, count) in enumerate(parts):
        is_last = place == len(parts) - 1
        formats += [cell_format] * (num_layers - len(formats) if count is None and is_last else count or 0)
    if len(formats) != num_layers or any(count is None for _, count in parts[:-1]):
        raise CascadeDoesNotFit(text, num_layers)
    return tuple(formats)


def _parts(text: str) -> list[tuple[CellFormat | None, int | None]]:
    matches = [_PART.fullmatch(part) for part in text.split(",")]
    found = [match for match in matches if match is not None]
    if len(found) != len(matches):
        raise UnknownCachePrecision(text)
    return [(_FORMATS[match["name"]], int(match["count"]) if match["count"] else None) for match in found]
