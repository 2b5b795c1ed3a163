"""A GGUF file from a stranger: cut anywhere, changed anywhere, it is refused by CheckpointError or read, and soon."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_checkpoint import GgufCheckpoint
from services.worker.engine.checkpoints.gguf_tokenizer import build_tokenizer, generation_config, tokenizer_config
from tests.fixtures.tiny_gguf import write_tiny_gguf

DEADLINE_MS = 5_000
"""Opening the whole file takes 50: a header that makes somebody count for ever would miss this by far."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("whole") / "tiny.gguf").read_bytes()


def open_everything(file: Path) -> None:
    checkpoint = GgufCheckpoint(file)
    for name in checkpoint.tensor_names():
        assert checkpoint.tensor(name) is not None
    build_tokenizer(checkpoint.metadata)
    tokenizer_config(checkpoint.metadata)
    generation_config(checkpoint.metadata)


HEADER_BYTES = 5_700
"""Keys, vocabulary and tensor infos of the tiny file; what follows are weights, where any byte is right."""
VALUES = st.one_of(
    st.binary(min_size=1, max_size=9),
    st.sampled_from([b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00\x00\x00\x00\x80"]),
)


@given(place=st.integers(0, HEADER_BYTES), value=VALUES)
@settings(max_examples=150, deadline=DEADLINE_MS)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, place: int, value: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.gguf"
    file.write_bytes(whole[:place] + value + whole[place + len(value) :])
    with contextlib.suppress(CheckpointError):
        open_everything(file)


@given(length=st.integers(0, HEADER_BYTES) | st.integers(0, 200_000))
@settings(max_examples=100, deadline=DEADLINE_MS)
def test_a_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, whole: bytes, length: int) -> None:
    file = tmp_path_factory.getbasetemp() / "truncated.gguf"
    file.write_bytes(whole[: min(length, len(whole) - 1)])
    with pytest.raises(CheckpointError):
        open_everything(file)


def test_the_whole_file_is_read_and_its_header_is_as_long_as_we_think(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "whole.gguf").write_bytes(whole)
    open_everything(tmp_path / "whole.gguf")
    assert abs(whole.index(b"blk.1.ffn_down.weight") - HEADER_BYTES) < 300
