"""Codes in the bits they need: a row of 4-bit codes takes half a byte each. Knows no scales.

Within a row codes follow each other from the lowest bits of the first byte on; a row starts at a whole byte. Read as
little-endian 32-bit words this is the order of compressed-tensors, AutoGPTQ (along its packed axis) and most kernels.
"""

import torch
from torch.nn import functional

from services.worker.engine.quantization.quantization_error import UnsupportedBits
from services.worker.engine.quantization.scheme import INTEGER_BITS


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """codes [..., columns], integers of 0 .. 2^bits - 1 -> uint8 [..., ceil(columns * bits / 8)]."""
    per_byte = _codes_per_byte(bits)
    codes = codes.to(torch.uint8)
    if per_byte == 1:
        return codes.contiguous()
    padded = functional.pad(codes, (0, -codes.shape[-1] % per_byte))
    lanes = padded.view(*padded.shape[:-1], -1, per_byte)  # [..., bytes, codes of one byte]
    packed: torch.Tensor = lanes[..., 0].clone()
    for lane in range(1, per_byte):
        packed |= lanes[..., lane] << (lane * bits)
    return packed


def unpack_codes(packed: torch.Tensor, bits: int, num_columns: int) -> torch.Tensor:
    """The inverse: uint8 [..., bytes] -> uint8 [..., num_columns]."""
    per_byte = _codes_per_byte(bits)
    if per_byte == 1:
        return packed[..., :num_columns]
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    lanes = (packed[..., None] >> shifts) & (2**bits - 1)
    codes: torch.Tensor = lanes.flatten(-2)[..., :num_columns]
    return codes


def packed_bytes(num_columns: int, bits: int) -> int:
    """Of one row."""
    return -(-num_columns // _codes_per_byte(bits))


def _codes_per_byte(bits: int) -> int:
    if bits not in INTEGER_BITS:
        raise UnsupportedBits(bits, INTEGER_BITS)
    return 8 // bits
