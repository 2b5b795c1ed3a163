"""Llama 3.1's scaling comes back from the divisors that llama.cpp stores in its place."""

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_import import import_gguf
from services.worker.engine.checkpoints.gguf_rope import DIVISORS
from services.worker.engine.checkpoints.rope_scaling import Rope, RopeKind
from services.worker.engine.checkpoints.weights import Checkpoint, open_checkpoint
from services.worker.engine.models.rope import rope_table
from tests.fixtures.tiny_gguf import HEADS, HIDDEN, gguf_tensors, write_tiny_gguf

THETA, HEAD_SIZE = 50_000.0, HIDDEN // HEADS


def llama_cpps_divisors(factor: float) -> numpy.ndarray:
    """Frequency by frequency, as the converter writes them."""
    divisors = []
    for index in range(0, HEAD_SIZE, 2):
        wavelength = 2 * math.pi * THETA ** (index / HEAD_SIZE)
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192:
            divisors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return numpy.array(divisors, dtype=numpy.float32)


def opened(tmp_path: Path, divisors: numpy.ndarray, **options: Any) -> Checkpoint:
    tensors = gguf_tensors() | {DIVISORS: divisors}
    return open_checkpoint(write_tiny_gguf(tmp_path / "tiny.gguf", tensors=tensors, **options))


def rope_of(checkpoint: Checkpoint) -> Rope:
    rope = checkpoint.config.layers[0].rope
    assert rope is not None
    return rope


def test_some_waves_are_kept_some_stretched_and_some_between() -> None:
    divisors = llama_cpps_divisors(32.0)
    assert divisors.min() == 1
    assert divisors.max() == 32
    assert ((divisors > 1) & (divisors < 32)).any()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_numbers_behind_the_divisors_are_found(tmp_path: Path, factor: float) -> None:
    rope = rope_of(opened(tmp_path, llama_cpps_divisors(factor)))
    assert rope.scaling is not None
    assert (rope.scaling.kind, rope.scaling.factor) == (RopeKind.LLAMA3, factor)
    assert rope.scaling.original_max_position_embeddings == 8192
    # The decoder's angles are the plain ones over the divisors.
    plain = torch.outer(torch.arange(50.0), 1 / THETA ** (torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE))
    angles = plain / torch.from_numpy(llama_cpps_divisors(factor))
    torch.testing.assert_close(rope_table(rope, 50), torch.cat([angles.cos(), angles.sin()], dim=1))


def test_the_scaling_survives_the_import(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, llama_cpps_divisors(32.0))
    import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    assert rope_of(open_checkpoint(tmp_path / "out")) == rope_of(checkpoint)
    assert DIVISORS not in checkpoint.tensor_names()


def test_divisors_of_one_are_no_scaling(tmp_path: Path) -> None:
    assert rope_of(opened(tmp_path, numpy.ones(HEAD_SIZE // 2, dtype=numpy.float32))).scaling is None


@pytest.mark.parametrize(
    "divisors",
    [
        numpy.full(HEAD_SIZE // 2, 4.0, dtype=numpy.float32),
        llama_cpps_divisors(32.0)[::-1].copy(),
        llama_cpps_divisors(32.0)[:-1],
        numpy.full(HEAD_SIZE // 2, numpy.nan, dtype=numpy.float32),
        numpy.zeros(HEAD_SIZE // 2, dtype=numpy.float32),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divisors_of_anything_else_are_refused(tmp_path: Path, divisors: numpy.ndarray) -> None:
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight: is not Llama 3\.1's scaling"):
        opened(tmp_path, divisors)


def test_two_scalings_in_one_file_are_refused(tmp_path: Path) -> None:
    values = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, llama_cpps_divisors(8.0), values=values)
    assert caught.value.subject == "llama.rope.scaling.type"
