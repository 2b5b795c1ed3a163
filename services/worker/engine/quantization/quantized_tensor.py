"""A matrix in low precision: packed codes and what they mean. The seam between who quantizes and who multiplies.

Knows how to become a plain tensor again, to be cut and joined by rows, and how large it is; not where it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from services.worker.engine.quantization.packing import packed_bytes, unpack_codes
from services.worker.engine.quantization.quantization_error import UnsupportedScheme
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme

FLOAT8_DTYPES = {
    NumberFormat.FLOAT8_E4M3: torch.float8_e4m3fn,
    NumberFormat.FLOAT8_E5M2: torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedTensor:
    """A matrix of `shape` (rows, columns), value = scale * (code - zero point) + minimum.

    `codes` uint8 [rows, packed bytes]: integers in packing.py's order, unsigned (a signed q is stored as
    q + 2^(bits - 1), the implied zero point); of float formats the byte of each number. `scales` [rows or 1, groups],
    any float type; one row of them is shared by all rows. `zero_points` uint8 like `scales`, for asymmetric schemes.
    `minimums` like `scales`, for codes that count from a float (GGUF's Q4_1 and Q4_K): there are no zero points then,
    and code 0 is the minimum. `group_index` int32 [columns]: the group of each column where that is not
    column // group size (GPTQ's act-order). `activations`: how inputs are quantized for the product, per token while
    running; None multiplies with plain ones.
    """

    scheme: QuantizationScheme
    shape: tuple[int, int]
    codes: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None = None
    minimums: torch.Tensor | None = None
    group_index: torch.Tensor | None = None
    activations: QuantizationScheme | None = None

    def __post_init__(self) -> None:
        rows, columns = self.shape
        groups = self.scheme.num_groups(columns)
        assert self.codes.shape == (rows, packed_bytes(columns, self.scheme.bits)), (self.codes.shape, self.shape)
        assert self.codes.dtype is torch.uint8
        assert self.scales.shape in ((rows, groups), (1, groups)), (self.scales.shape, self.shape)
        for optional in (self.zero_points, self.minimums):
            assert optional is None or optional.shape == self.scales.shape
        assert self.zero_points is None or self.minimums is None
        assert self.group_index is None or self.group_index.shape == (columns,)

    @property
    def num_bytes(self) -> int:
        """All that is kept: codes, scales, zero points, minimums, group index."""
        parts = (self.codes, self.scales, self.zero_points, self.minimums, self.group_index)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    @property
    def bits_per_value(self) -> float:
        return 8 * self.num_bytes / (self.shape[0] * self.shape[1])

    def integers(self) -> torch.Tensor:
        """Codes before scaling, int16 [rows, columns]: the zero point is subtracted, implied or stored."""
        codes = unpack_codes(self.codes, self.scheme.bits, self.shape[1]).to(torch.int16)
        if self.zero_points is not None:
            return codes - self._per_column(self.zero_points).to(torch.int16)
        return codes if self.minimums is not None else codes - self.scheme.implied_zero_point

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[rows, columns], computed in float32 and rounded once."""
        if self.scheme.number_format is NumberFormat.INTEGER:
            numbers = self.integers().float()
        else:
            numbers = self.codes.view(FLOAT8_DTYPES[self.scheme.number_format]).float()
        values = numbers.mul_(self._per_column(self.scales.float()))
        if self.minimums is not None:
            values += self._per_column(self.minimums.float())
        return values.to(dtype)

    def rows(self, begin: int, end: int) -> QuantizedTensor:
        """Rows begin .. end - 1; codes are a view."""
        return replace(
            self,
            shape=(end - begin, self.shape[1]),
            codes=self.codes[begin:end],
            scales=_cut(self.scales, begin, end),
            zero_points=None if self.zero_points is None else _cut(self.zero_points, begin, end),
            minimums=None if self.minimums is None else _cut(self.minimums, begin, end),
        )

    def to(self, device: torch.device) -> QuantizedTensor:
        def moved(part: torch.Tensor | None) -> torch.Tensor | None:
            return None if part is None else part.to(device)

        return replace(
            self,
            codes=self.codes.to(device),
            scales=self.scales.to(device),
            zero_points=moved(self.zero_points),
            minimums=moved(self.minimums),
            group_index=moved(self.group_index),
        )

    def _per_column(self, per_group: torch.Tensor) -> torch.Tensor:
        """[rows or 1, groups] -> [rows or 1, columns or 1]."""
        if self.group_index is not None:
            return per_group[:, self.group_index.long()]
        if per_group.shape[1] == 1:
            return per_group
        return per_group.repeat_interleave(self.shape[1] // per_group.shape[1], dim=1)


def _cut(per_group: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    return per_group if per_group.shape[0] == 1 else per_group[begin:end]


def _for_rows(per_group: torch.Tensor, rows: int) -> torch.Tensor:
    return per_group.expand(rows, -1) if per_group.shape[0] == 1 else per_group


def can_join(tensors: Sequence[QuantizedTensor]) -> bool:
    """Whether these are one matrix when laid above each other: same columns, scheme and order of columns."""
    first = tensors[0]
    return all(
        tensor.shape[1] == first.shape[1]
        and tensor.scheme == first.scheme
        and tensor.activations == first.activations
        and (tensor.minimums is None) is (first.minimums is None)
        and (tensor.zero_points is None) is (first.zero_points is None)
        and _same(tensor.group_index, first.group_index)
        for tensor in tensors
    )


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def join_rows(tensors: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """Several projections of one input as one matrix. Raises UnsupportedScheme where `can_join` is False.

    Scales per tensor become scales per row: each part keeps its own.
    """
    if not can_join(tensors):
        raise UnsupportedScheme("matrices of different schemes cannot be joined")
    first = tensors[0]

    def joined(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(
            [_for_rows(part, tensor.shape[0]) for part, tensor in zip(parts, tensors, strict=True)]
        ).contiguous()

    scheme = first.scheme
    if scheme.granularity is Granularity.TENSOR:
        scheme = replace(scheme, granularity=Granularity.CHANNEL)
    return replace(
        first,
        scheme=scheme,
        shape=(sum(tensor.shape[0] for tensor in tensors), first.shape[1]),
        codes=torch.cat([tensor.codes for tensor in tensors]),
        scales=joined([tensor.scales for tensor in tensors]),
        zero_points=None
        if first.zero_points is None
        else joined([t.zero_points for t in tensors if t.zero_points is not None]),
        minimums=None if first.minimums is None else joined([t.minimums for t in tensors if t.minimums is not None]),
    )
