"""The import tool on small GGUF files: what it writes and what it says."""

import io
from pathlib import Path

import gguf
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.offline import import_model
from tests.fixtures.tiny_gguf import LAYERS, write_tiny_gguf


def command_line(*arguments: str):  # type: ignore[no-untyped-def]
    application = typer.Typer()
    application.command()(import_model._command)
    return CliRunner().invoke(application, list(arguments))


def test_a_gguf_file_becomes_a_directory_that_opens(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    finished = command_line(str(source), "--out", str(tmp_path / "models" / "tiny"))
    assert finished.exit_code == 0, finished.output
    assert str(tmp_path / "models" / "tiny") in finished.stderr
    assert open_checkpoint(tmp_path / "models" / "tiny").config.num_layers == 2


def test_default_stands_for_the_wheels_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(import_model, "default_model_gguf", lambda: source)
    said = io.StringIO()
    import_model.import_model("default", tmp_path / "out", console=Console(file=said, force_terminal=True, width=100))
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert "Importing tiny.gguf" in said.getvalue()


def test_a_directory_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "notes").write_text("mine")
    finished = command_line(str(source), "--out", str(tmp_path))
    assert finished.exit_code == 2
    assert "not an empty directory" in finished.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes", "tiny.gguf"]


def test_a_model_that_is_there_already_is_enough_where_that_is_asked_for(tmp_path: Path) -> None:
    """The compose stack's second start finds the first one's volume."""
    source, out = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "out"
    assert command_line(str(source), "--out", str(out), "--if-missing").exit_code == 0
    written = (out / "model.safetensors").stat().st_mtime_ns
    again = command_line(str(source), "--out", str(out), "--if-missing")
    assert again.exit_code == 0
    assert "holds a model already" in again.stderr
    assert (out / "model.safetensors").stat().st_mtime_ns == written


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(3))
    with pytest.raises(CheckpointError, match=r"bad\.gguf"):
        import_model.import_model(str(tmp_path / "bad.gguf"), tmp_path / "out", console=Console(file=io.StringIO()))
    assert not (tmp_path / "out").exists()


def test_weights_that_are_kept_stay_as_the_file_has_them(tmp_path: Path) -> None:
    kinds = {f"blk.{layer}.ffn_up.weight": gguf.GGMLQuantizationType.Q4_1 for layer in range(LAYERS)}
    source = write_tiny_gguf(tmp_path / "tiny.gguf", types=kinds)
    out = tmp_path / "kept"
    assert command_line(str(source), "--out", str(out), "--keep-weights").exit_code == 0
    assert (out / "model.gguf").read_bytes() == source.read_bytes()
    assert not list(out.glob("*.safetensors"))
    assert (out / "tokenizer.json").is_file()
    kept = open_checkpoint(out)
    assert kept.fingerprint == open_checkpoint(source).fingerprint
    quantized = kept.quantized("model.layers.1.mlp.up_proj.weight")
    assert quantized is not None
    assert quantized.bits_per_value == 5
    assert open_checkpoint(source).quantized("model.layers.1.mlp.down_proj.weight") is None
