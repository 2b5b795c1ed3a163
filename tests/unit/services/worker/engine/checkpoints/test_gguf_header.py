"""Hand-made headers, each with one number that cannot be meant."""

import struct
from pathlib import Path

import gguf
import pytest

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_header import check_header
from services.worker.engine.checkpoints.gguf_import import default_model_gguf
from tests.fixtures.tiny_gguf import write_tiny_gguf

Kind = gguf.GGUFValueType
HUGE = (1 << 63) + 5


def name(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def key(text: str, kind: int, value: bytes) -> bytes:
    return name(text) + struct.pack("<I", kind) + value


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    return key("list", Kind.ARRAY, struct.pack("<IQ", kind, count) + content)


def tensor(dimensions: list[int], *, kind: int = gguf.GGMLQuantizationType.F32, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in dimensions)
    return name("weight") + struct.pack("<I", len(dimensions)) + sizes + struct.pack("<IQ", kind, offset)


def header(*keys: bytes, tensors: tuple[bytes, ...] = (), version: int = 3, data_bytes: int = 0) -> bytes:
    begin = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    written = begin + b"".join(keys) + b"".join(tensors)
    return written + bytes(-len(written) % 32 + data_bytes)


def complaint(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        check_header(tmp_path / "x.gguf")
    assert caught.value.file == tmp_path / "x.gguf"
    return str(caught.value).removeprefix(f"{tmp_path}/x.gguf: ")


def test_whole_files_pass(tmp_path: Path) -> None:
    check_header(write_tiny_gguf(tmp_path / "tiny.gguf"))
    check_header(write_tiny_gguf(tmp_path / "q.gguf", types={"blk.0.attn_v.weight": gguf.GGMLQuantizationType.Q4_1}))
    (tmp_path / "x.gguf").write_bytes(
        header(
            key("general.alignment", Kind.UINT32, struct.pack("<I", 64)),
            array(Kind.FLOAT64, 3, bytes(24)),
            array(Kind.STRING, 2, name("a") + name("")),
            tensors=(tensor([2, 4]),),
            data_bytes=128,
        )
    )
    check_header(tmp_path / "x.gguf")


@pytest.mark.model
def test_the_default_model_passes() -> None:
    check_header(default_model_gguf())


@pytest.mark.parametrize("kind", [Kind.INT8, Kind.FLOAT64, Kind.STRING, Kind.BOOL])
@pytest.mark.parametrize("count", [1_000, 3_999_999, 4_000_001, HUGE])
def test_an_array_longer_than_the_file_is_refused_at_once(tmp_path: Path, kind: int, count: int) -> None:
    """The gguf package would count to the end of it."""
    assert complaint(tmp_path, header(array(kind, count))).startswith("list: ")


def test_many_arrays_are_counted_together(tmp_path: Path) -> None:
    two_millions = array(Kind.INT8, 2_000_000, bytes(2_000_000))
    check = header(two_millions, two_millions)
    (tmp_path / "x.gguf").write_bytes(check)
    check_header(tmp_path / "x.gguf")
    assert "an array of 1 is too long" in complaint(tmp_path, header(two_millions, two_millions, array(Kind.INT8, 1)))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"GGU", "not a GGUF file"),
        (b"GGUF", "its header goes on behind 4 bytes"),
        (header(version=1), "version 1 is not supported"),
        (header(version=3 << 24), "is not supported; little-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), f"{HUGE} tensors and 0 keys cannot be meant"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 70_000), "0 tensors and 70000 keys cannot be meant"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2), "damaged or truncated"),
        (header(key("k", 99, b"")), "k: type 99 is unknown"),
        (header(key("k", Kind.STRING, struct.pack("<Q", HUGE))), "k: damaged or truncated"),
        (header(key("k", Kind.UINT64, b"")[:-20]), "damaged or truncated"),
        (header(struct.pack("<Q", 1 << 20)), f"a name of {1 << 20} bytes"),
        (header(struct.pack("<Q", 2) + b"\xff\xfe"), "a name is not UTF-8"),
        (header(array(Kind.ARRAY, 1)), "list: an array of arrays"),
        (header(array(77, 1)), "list: type 77 is unknown"),
        (header(key("general.alignment", Kind.UINT32, struct.pack("<I", 0))), "general.alignment: 0 is not a power"),
        (header(key("general.alignment", Kind.UINT32, struct.pack("<I", 24))), "general.alignment: 24 is not a power"),
        (header(tensors=(tensor([1] * 5),)), "weight: 5 dimensions cannot be meant"),
        (header(tensors=(tensor([4], kind=1_000),)), "weight: type 1000 is unknown"),
        (header(tensors=(tensor([33], kind=gguf.GGMLQuantizationType.Q8_0),)), "weight: 33 values are no whole blocks"),
        (header(tensors=(tensor([8]),), data_bytes=31), "weight: truncated: it ends at"),
        (header(tensors=(tensor([8], offset=HUGE),), data_bytes=32), "weight: truncated: it ends at"),
        (header(tensors=(tensor([1 << 33, 1 << 33]),), data_bytes=32), "weight: truncated: it ends at"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    assert problem in complaint(tmp_path, content)
