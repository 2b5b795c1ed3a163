"""How a key or a value of one token and one head lies in a cache of low precision: its codes, then what scales them.

A cell is a function of its own token alone, so that sharing, copying, handing over and reusing blocks, chunks of a
prompt and batches change nothing. What is read back is rounded to the model's dtype: every way of attention sees that.

INT8 keeps a byte in two planes, first all upper halves, then all lower ones: the first plane is an INT4 of the same
number (QuantSpec's hierarchical cache, Tiwari et al. 2025, section 4). INT4 has a scale and a minimum for every 32
dimensions, per token, as KIVI does for values (Liu et al. 2024, section 3); keys come in a frame: key_frame.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from services.worker.engine.kv_cache.cell_format import CellFormat

INT4_SPAN = 32
"""Dimensions that share a scale and a minimum."""

_SCALE_BYTES = 4
_TINY = torch.finfo(torch.float32).tiny
_INT8_ZERO = 128
_UPPER_ZERO = 120.5
"""A half that is not read is taken for its middle, 7.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLayout:
    """Cells of one format for heads of `head_size`, which must be even."""

    format: CellFormat
    head_size: int

    @property
    def num_bytes(self) -> int:
        if self.format is CellFormat.INT4:
            return (self.head_size + 1) // 2 + _SCALE_BYTES * self.num_spans
        return self.head_size + _SCALE_BYTES

    @property
    def num_spans(self) -> int:
        return -(-self.head_size // INT4_SPAN)

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """values [..., D], any float type -> uint8 [..., bytes]. What is not finite makes its scale NaN."""
        wide = values.float()
        match self.format:
            case CellFormat.INT8 | CellFormat.INT8_UPPER:
                scales = _scales(wide, 127.0)
                codes = ((wide / scales).round().clamp(-127, 127).nan_to_num(0) + _INT8_ZERO).to(torch.uint8)
                planes = [_in_halves(codes >> 4), _in_halves(codes & 15)]
                return torch.cat([*planes, scales.view(torch.uint8)], dim=-1)
            case CellFormat.FP8:
                scales = _scales(wide, 448.0)
                codes = (wide / scales).clamp(-448, 448).nan_to_num(0).to(torch.float8_e4m3fn).view(torch.uint8)
                return torch.cat([codes, scales.view(torch.uint8)], dim=-1)
            case CellFormat.INT4:
                return self._encode_spans(wide)

    def decode(self, cells: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """uint8 [..., bytes] -> [..., D], computed in float32 and rounded once."""
        size = self.head_size
        match self.format:
            case CellFormat.INT8:
                upper, lower = _of_halves(cells[..., : size // 2]), _of_halves(cells[..., size // 2 : size])
                numbers = ((upper << 4) | lower).float() - _INT8_ZERO
                return (numbers * _floats(cells[..., size:])).to(dtype)
            case CellFormat.INT8_UPPER:
                numbers = (_of_halves(cells[..., : size // 2]) << 4).float() - _UPPER_ZERO
                return (numbers * _floats(cells[..., size:])).to(dtype)
            case CellFormat.FP8:
                numbers = cells[..., :size].contiguous().view(torch.float8_e4m3fn).float()
                return (numbers * _floats(cells[..., size:])).to(dtype)
            case CellFormat.INT4:
                codes = _of_halves(cells[..., : size // 2]).float()
                pairs = cells[..., size // 2 :].contiguous().view(torch.bfloat16).float()
                scales, minimums = pairs[..., : self.num_spans], pairs[..., self.num_spans :]
                return (codes * self._spread(scales) + self._spread(minimums)).to(dtype)

    def _encode_spans(self, wide: torch.Tensor) -> torch.Tensor:
        padding = self.num_spans * INT4_SPAN - self.head_size
        spans = functional.pad(wide, (0, padding), mode="constant", value=0.0)
        if padding:
            spans[..., self.head_size :] = wide[..., -1:]
        spans = spans.view(*wide.shape[:-1], self.num_spans, INT4_SPAN)
        minimums = spans.amin(dim=-1).to(torch.bfloat16)
        scales = ((spans.amax(dim=-1) - minimums.float()) / 15).clamp(min=_TINY).to(torch.bfloat16)
        scaled = (wide - self._spread(minimums.float())) / self._spread(scales.float())
        codes = scaled.round().clamp(0, 15).nan_to_num(0).to(torch.uint8)
        poison = (spans * 0).sum(dim=-1)
        scales = (scales.float() + poison).to(torch.bfloat16)
        return torch.cat([_in_halves(codes), torch.cat([scales, minimums], dim=-1).view(torch.uint8)], dim=-1)

    def _spread(self, per_span: torch.Tensor) -> torch.Tensor:
        return per_span.repeat_interleave(INT4_SPAN, dim=-1)[..., : self.head_size]


def _scales(wide: torch.Tensor, highest: float) -> torch.Tensor:
    """[..., 1] float32; NaN where something is not finite."""
    scales = (wide.abs().amax(dim=-1, keepdim=True) / highest).clamp(min=_TINY)
    return scales + (wide * 0).sum(dim=-1, keepdim=True)


def _in_halves(codes: torch.Tensor) -> torch.Tensor:
    """[..., D] of 0 .. 15 -> [..., D / 2]: the first half of the dimensions in the low bits, the second in the high."""
    first, second = codes.chunk(2, dim=-1)
    return first | (second << 4)


def _of_halves(packed: torch.Tensor) -> torch.Tensor:
    return torch.cat([packed & 15, packed >> 4], dim=-1)


def _floats(stored: torch.Tensor) -> torch.Tensor:
    return stored.contiguous().view(torch.float32)
