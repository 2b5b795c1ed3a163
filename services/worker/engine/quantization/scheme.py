"""How numbers are represented: format, width, granularity, symmetry. Plain values; knows no torch and no file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.worker.engine.quantization.quantization_error import (
    GroupSizeDoesNotDivide,
    UnsupportedBits,
    UnsupportedScheme,
)

INTEGER_BITS = (2, 4, 8)
FLOAT8_BITS = 8


class NumberFormat(StrEnum):
    """What a code means. The float formats are those of Micikevicius et al. 2022 (FP8 Formats for Deep Learning)."""

    INTEGER = "integer"
    FLOAT8_E4M3 = "float8_e4m3"
    FLOAT8_E5M2 = "float8_e5m2"


class Granularity(StrEnum):
    """What shares one scale: the whole tensor, a row, or `group_size` neighbours in a row.

    A row of a weight is an output channel; a row of activations is a token.
    """

    TENSOR = "tensor"
    CHANNEL = "channel"
    GROUP = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationScheme:
    """`group_size` is set exactly for GROUP. `used_bits`: of an integer's, what its codes use; None: all of them.

    Raises QuantizationError for what does not go together.
    """

    bits: int
    granularity: Granularity = Granularity.CHANNEL
    group_size: int | None = None
    is_symmetric: bool = True
    number_format: NumberFormat = NumberFormat.INTEGER
    used_bits: int | None = None

    def __post_init__(self) -> None:
        is_integer = self.number_format is NumberFormat.INTEGER
        supported = INTEGER_BITS if is_integer else (FLOAT8_BITS,)
        if self.bits not in supported:
            raise UnsupportedBits(self.bits, supported)
        if not is_integer and not self.is_symmetric:
            raise UnsupportedScheme("float formats have no zero point: they are symmetric")
        if self.used_bits is not None and not (is_integer and 2 <= self.used_bits <= self.bits):
            raise UnsupportedScheme(
                f"{self.number_format} codes of {self.bits} bits cannot use {self.used_bits} of them"
            )
        if (self.granularity is Granularity.GROUP) is (self.group_size is None):
            raise UnsupportedScheme(
                f"granularity {self.granularity} and group size {self.group_size} exclude each other"
            )
        if self.group_size is not None and self.group_size < 1:
            raise UnsupportedScheme(f"a group of {self.group_size} columns cannot be meant")

    @property
    def num_levels(self) -> int:
        """Steps between the lowest and the highest value: 15 for asymmetric INT4, 14 for symmetric."""
        return 2 * self.highest if self.is_symmetric else 2 ** (self.used_bits or self.bits) - 1

    @property
    def highest(self) -> int:
        """Of a symmetric integer: values are -highest .. highest."""
        return int(2 ** ((self.used_bits or self.bits) - 1) - 1)

    @property
    def implied_zero_point(self) -> int:
        """The code that means zero where no zero points are stored: signed integers are stored from zero upwards."""
        return int(2 ** (self.bits - 1))

    def num_groups(self, num_columns: int) -> int:
        """Scales in one row. Raises GroupSizeDoesNotDivide."""
        if self.group_size is None:
            return 1
        if num_columns % self.group_size:
            raise GroupSizeDoesNotDivide(self.group_size, num_columns)
        return num_columns // self.group_size


def integers(
    bits: int, *, group_size: int | None = None, is_symmetric: bool = True, used_bits: int | None = None
) -> QuantizationScheme:
    """The usual one for a weight: per group where a size is given, else per row."""
    return QuantizationScheme(
        bits=bits,
        granularity=Granularity.CHANNEL if group_size is None else Granularity.GROUP,
        group_size=group_size,
        is_symmetric=is_symmetric,
        used_bits=used_bits,
    )
