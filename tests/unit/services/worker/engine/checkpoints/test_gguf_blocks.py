"""Blocks written by the gguf package's quantizers, or of random bytes, mean here what they mean there."""

import gguf
import numpy
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from services.worker.engine.checkpoints.gguf_blocks import can_keep, quantized_rows

KEPT = [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.Q4_K, Kind.Q6_K]
_HALVES = {Kind.Q4_0: (0,), Kind.Q4_1: (0, 2), Kind.Q8_0: (0,), Kind.Q4_K: (0, 2), Kind.Q6_K: (208,)}
"""Where in a block its 16-bit floats begin."""


def _random_rows(kind: Kind, *, rows: int, blocks: int) -> numpy.ndarray:
    """Any bytes are codes and scales; only the floats must be finite."""
    draw = numpy.random.default_rng(3)
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    data = draw.integers(0, 256, (rows, blocks, block_bytes), dtype=numpy.uint8)
    for begin in _HALVES[kind]:
        halves = draw.standard_normal((rows, blocks, 1)).astype(numpy.float16)
        data[..., begin : begin + 2] = halves.view(numpy.uint8)
    return data.reshape(rows, -1)


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: kind.name)
def test_any_block_has_exactly_the_values_that_the_gguf_package_reads(kind: Kind) -> None:
    rows = _random_rows(kind, rows=5, blocks=3)
    kept = quantized_rows(rows, kind)
    expected = gguf.dequantize(rows, kind)
    assert kept.shape == expected.shape
    assert torch.equal(kept.dequantize(), torch.from_numpy(expected))


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0], ids=lambda kind: kind.name)
def test_a_matrix_quantized_by_the_gguf_package_is_kept_without_loss_and_close_to_what_it_was(kind: Kind) -> None:
    values = numpy.random.default_rng(4).standard_normal((7, 96), dtype=numpy.float32)
    rows = gguf.quants.quantize(values, kind)
    kept = quantized_rows(rows, kind)
    assert torch.equal(kept.dequantize(), torch.from_numpy(gguf.dequantize(rows, kind)))
    steps = kept.scales.float().repeat_interleave(32, dim=1)
    error = (kept.dequantize() - torch.from_numpy(values)).abs()
    assert (error <= 1.01 * steps.abs()).all()


@pytest.mark.parametrize(
    ("kind", "bits"), [(Kind.Q4_0, 4.5), (Kind.Q4_1, 5), (Kind.Q8_0, 8.5), (Kind.Q4_K, 6), (Kind.Q6_K, 10)]
)
def test_what_is_kept_takes_few_bits_for_each_value(kind: Kind, bits: float) -> None:
    kept = quantized_rows(_random_rows(kind, rows=4, blocks=2), kind)
    assert kept.bits_per_value == pytest.approx(bits)


def test_types_that_would_lose_something_are_not_kept() -> None:
    assert [kind for kind in Kind if can_keep(kind)] == sorted(KEPT)
