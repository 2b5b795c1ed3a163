"""GGUF's quantized blocks as `QuantizedTensor`s: the same numbers in the same bits, only laid out anew.

Values are exactly those of the `gguf` package's `dequantize`. Scales of Q4_K and Q6_K are products of two stored
numbers: they are kept as float32, so that nothing is rounded; Q6_K's codes take eight bits here.

Source: ggml, ggml-common.h (block_q4_0, block_q4_1, block_q8_0, block_q4_K, block_q6_K) and ggml-quants.c.
"""

from collections.abc import Callable

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from services.worker.engine.quantization.packing import pack_codes
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import integers

Bytes = NDArray[numpy.uint8]


def can_keep(kind: GGMLQuantizationType) -> bool:
    return kind in _READERS


def quantized_rows(rows: Bytes, kind: GGMLQuantizationType) -> QuantizedTensor:
    """rows [rows, bytes of a row], as GGUF stores them. `can_keep(kind)` must hold."""
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rows.reshape(rows.shape[0], -1, block_bytes)
    return _READERS[kind](blocks)


def _q4_0(blocks: Bytes) -> QuantizedTensor:
    return _tensor(_nibbles(blocks[..., 2:]), _half(blocks[..., :2]), bits=4, group_size=32)


def _q4_1(blocks: Bytes) -> QuantizedTensor:
    codes = _nibbles(blocks[..., 4:])
    return _tensor(codes, _half(blocks[..., :2]), bits=4, group_size=32, minimums=_half(blocks[..., 2:4]))


def _q8_0(blocks: Bytes) -> QuantizedTensor:
    return _tensor(blocks[..., 2:] ^ numpy.uint8(0x80), _half(blocks[..., :2]), bits=8, group_size=32)


def _q4_k(blocks: Bytes) -> QuantizedTensor:
    """Super-blocks of eight groups of 32; scales and minimums have six bits and share twelve bytes."""
    step, floor = _half(blocks[..., :2]).astype(numpy.float32), _half(blocks[..., 2:4]).astype(numpy.float32)
    low, mid, high = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scales = numpy.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=-1)
    minimums = numpy.concatenate([mid & 63, (high >> 4) | (mid >> 6 << 4)], axis=-1)
    pairs = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)  # each byte holds one code of two groups
    codes = numpy.stack([pairs & 15, pairs >> 4], axis=3)
    return _tensor(codes, step * scales, bits=4, group_size=32, minimums=-(floor * minimums))


def _q6_k(blocks: Bytes) -> QuantizedTensor:
    """Super-blocks of sixteen groups of 16; four low bits of a code in one place, two high bits in another."""
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 2, 32)
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32)
    nibbles = numpy.concatenate([low & 15, low >> 4], axis=3)  # [rows, blocks, half, quarter, 32]
    pairs = numpy.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=3)
    codes = (nibbles | (pairs << 4)) + (128 - 32)
    scales = _half(blocks[..., 208:]).astype(numpy.float32) * blocks[..., 192:208].view(numpy.int8)
    return _tensor(codes, scales, bits=8, group_size=16)


def _nibbles(halves: Bytes) -> Bytes:
    """The low halves of a block's bytes come first, then the high ones."""
    return numpy.concatenate([halves & 15, halves >> 4], axis=-1)


def _half(pair: Bytes) -> NDArray[numpy.float16]:
    return numpy.ascontiguousarray(pair).view(numpy.float16)


def _tensor(
    codes: Bytes,
    scales: NDArray[numpy.floating],
    *,
    bits: int,
    group_size: int,
    minimums: NDArray[numpy.floating] | None = None,
) -> QuantizedTensor:
    rows = codes.shape[0]
    flat = torch.from_numpy(numpy.ascontiguousarray(codes.reshape(rows, -1)))
    return QuantizedTensor(
        scheme=integers(bits, group_size=group_size, is_symmetric=minimums is None),
        shape=(rows, flat.shape[1]),
        codes=pack_codes(flat, bits),
        scales=torch.from_numpy(numpy.ascontiguousarray(scales.reshape(rows, -1))),
        minimums=None if minimums is None else torch.from_numpy(numpy.ascontiguousarray(minimums.reshape(rows, -1))),
    )


_READERS: dict[GGMLQuantizationType, Callable[[Bytes], QuantizedTensor]] = {
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q8_0: _q8_0,
    GGMLQuantizationType.Q4_K: _q4_k,
    GGMLQuantizationType.Q6_K: _q6_k,
}
