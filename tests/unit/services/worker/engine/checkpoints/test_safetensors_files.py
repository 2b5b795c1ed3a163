import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.safetensors_files import SafetensorsReader, read_headers, weight_files
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint


def write_raw(file: Path, header: object, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def entry(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def test_a_single_file_is_found(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_shards_are_found_by_the_index(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, num_shards=3)
    assert [file.name for file in weight_files(tmp_path)] == [
        f"model-0000{shard}-of-00003.safetensors" for shard in (1, 2, 3)
    ]


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = {"a": torch.randn(3, 4), "b": torch.randn(5).to(torch.bfloat16), "c": torch.randn(2).half()}
    save_file(written, tmp_path / "model.safetensors")
    reader = SafetensorsReader([tmp_path / "model.safetensors"])
    assert {name: stored.shape for name, stored in reader.stored.items()} == {"a": (3, 4), "b": (5,), "c": (2,)}
    for name, tensor in written.items():
        found = reader.read(name)
        assert found.dtype is tensor.dtype
        assert torch.equal(found, tensor)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="pickled weights are refused") as caught:
        weight_files(tmp_path)
    assert caught.value.file.name == name


def test_a_directory_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors nor"):
        weight_files(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, num_shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the shard is missing") as caught:
        weight_files(tmp_path)
    assert caught.value.file.name == "model-00002-of-00002.safetensors"


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "model.bin", 7])
def test_an_index_may_only_name_safetensors_beside_it(tmp_path: Path, name: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="is not a safetensors file beside it") as caught:
        weight_files(tmp_path)
    assert caught.value.subject == "w"


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": []}])
def test_an_index_without_a_map_is_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        weight_files(tmp_path)
    assert caught.value.subject == "weight_map"


def test_a_file_cut_anywhere_in_its_data_names_the_tensor(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(100)}, file)
    whole = file.read_bytes()
    for missing in (1, 200, 399):
        file.write_bytes(whole[:-missing])
        with pytest.raises(CheckpointError, match="truncated") as caught:
            read_headers([file])
        assert (caught.value.file, caught.value.subject) == (file, "w")


@pytest.mark.parametrize("length", [0, 5, 8, 20])
def test_a_file_cut_in_its_header_is_refused(tmp_path: Path, length: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="truncated or not safetensors"):
        read_headers([file])


def test_a_header_that_is_not_an_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_headers([write_raw(tmp_path / "a.safetensors", [])])
    broken = tmp_path / "b.safetensors"
    broken.write_bytes((3).to_bytes(8, "little") + b"{{{")
    with pytest.raises(CheckpointError, match="not JSON"):
        read_headers([broken])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dtype": "F8_E4M3"}, "dtype F8_E4M3 is not supported"),
        ({"dtype": "I32"}, "dtype I32 is not supported"),
        ({"shape": [3]}, "8 bytes cannot hold"),
        ({"data_offsets": [4, 8]}, "4 bytes cannot hold"),
        ({"data_offsets": [-8, 0]}, "cannot hold"),
        ({"data_offsets": [0]}, "header entry is damaged"),
        ({"shape": "wide"}, "header entry is damaged"),
    ],
)
def test_a_bad_entry_names_the_tensor(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    file = write_raw(tmp_path / "model.safetensors", entry(**changes), bytes(8))
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_headers([file])
    assert caught.value.subject == "w"


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    files = [write_raw(tmp_path / f"{name}.safetensors", entry(), bytes(8)) for name in "ab"]
    with pytest.raises(CheckpointError, match=r"is in a\.safetensors as well"):
        read_headers(files)
