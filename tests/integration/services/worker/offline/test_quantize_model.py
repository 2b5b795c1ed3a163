"""`penstock quantize` on tiny random models: what it writes opens here and in transformers, and computes the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import typer
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from safetensors.torch import load_file
from typer.testing import CliRunner

from services.worker.engine.calibration import quantize_model as quantizing
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.offline import quantize_model as tool
from services.worker.offline.english_text import Part, builtin_text, digest, windows
from shared.tokenization.tokenizer import Tokenizer
from tests.decoder_probe import all_logits, read_checkpoint
from tests.fixtures.random_models import SaveModel, random_prompt
from tests.fixtures.tiny_tokenizers import with_tokenizer

QUICK = ("--sequences", "4", "--sequence-tokens", "32", "--num-threads", "1")


def command_line(*arguments: str) -> Any:
    application = typer.Typer()
    application.command()(tool._command)
    return CliRunner().invoke(application, [*arguments, *QUICK])


@pytest.fixture
def source(tmp_path: Path, random_model: SaveModel) -> Path:
    return with_tokenizer(random_model("llama, tied")[0], tmp_path / "source")


CASES = [
    ("llama, tied", ("--method", "rtn", "--bits", "4", "--group-size", "16")),
    ("llama, tied", ("--method", "rtn", "--bits", "8", "--activation-bits", "8")),
    ("llama, tied", ("--method", "smoothquant", "--group-size", "0")),
    ("llama, tied", ("--method", "smoothquant", "--group-size", "16")),
    ("llama, tied", ("--method", "gptq", "--group-size", "16", "--activation-bits", "8")),
    ("llama, biases", ("--method", "awq", "--group-size", "16")),
    ("gemma2", ("--method", "awq", "--group-size", "16", "--symmetric")),
    ("phi3", ("--method", "gptq", "--group-size", "16")),
    ("llama, tied", ("--method", "gptq", "--bits", "2", "--group-size", "16")),
    (
        "qwen3",
        (
            "--method",
            "fp8",
        ),
    ),
]


@pytest.fixture
def zero_points_packed_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """compressed-tensors 0.20 forgets packed zero points where it shapes an empty model: corrected here.

    Without this transformers 5.23 refuses every packed checkpoint with zero points, its own too.
    """
    compress = PackedQuantizationCompressor.compress.__func__

    def with_zero_points(cls: type, state_dict: dict[str, torch.Tensor], scheme: Any) -> dict[str, torch.Tensor]:
        packed: dict[str, torch.Tensor] = compress(cls, state_dict, scheme)
        zero_point = packed.get("weight_zero_point")
        if zero_point is not None and zero_point.device.type == "meta" and zero_point.dtype is not torch.int32:
            words = -(-zero_point.shape[0] * scheme.weights.num_bits // 32)
            packed["weight_zero_point"] = torch.empty(words, zero_point.shape[1], dtype=torch.int32, device="meta")
        return packed

    monkeypatch.setattr(PackedQuantizationCompressor, "compress", classmethod(with_zero_points))


@pytest.mark.usefixtures("zero_points_packed_on_meta")
@pytest.mark.parametrize(
    ("case", "options"), CASES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else value
)
def test_transformers_reads_what_was_written_and_computes_the_same(
    tmp_path: Path, random_model: SaveModel, case: str, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    source = with_tokenizer(random_model(case)[0], tmp_path / "source")
    finished = command_line(str(source), "--out", str(out), *options)
    assert finished.exit_code == 0, finished.output
    prompt = random_prompt(30)
    config, read = read_checkpoint(out)
    ours = all_logits(config, read, prompt, pieces=[30])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager")
    # Where their layers round the inputs, too, only the weights are compared: their steps are 1 / 127.5 wide.
    for module in theirs.modules():
        if hasattr(module, "quantization_scheme"):
            module.quantization_scheme.input_activations = None
    with torch.inference_mode():
        expected = theirs(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=2e-3)
    original = random_model(case)[1](torch.tensor([prompt])).logits[0]
    assert (ours - original).abs().max() > 1e-3


def test_a_smoothed_checkpoint_says_that_inputs_are_rounded_and_its_weights_are_close(
    source: Path, tmp_path: Path
) -> None:
    assert command_line(str(source), "--method", "smoothquant", "--out", str(tmp_path / "out")).exit_code == 0
    tensor = open_checkpoint(tmp_path / "out").quantized("model.layers.1.mlp.down_proj.weight")
    assert tensor is not None
    assert tensor.activations is not None
    assert (tensor.scheme.bits, tensor.activations.bits) == (8, 8)
    prompt = random_prompt(30)
    config, read = read_checkpoint(tmp_path / "out")
    smoothed = all_logits(config, read, prompt, pieces=[30])
    original = all_logits(*read_checkpoint(source), prompt, pieces=[30])
    assert (smoothed - original).abs().mean() < 0.05 * original.abs().mean()


def test_the_directory_is_whole_and_small(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "out"
    assert (
        command_line(str(source), "--method", "rtn", "--bits", "4", "--group-size", "16", "--out", str(out)).exit_code
        == 0
    )
    assert (out / "tokenizer.json").is_file()
    assert not list(out.parent.glob(".*"))
    section = json.loads((out / "config.json").read_text())["quantization_config"]
    assert section["quant_method"] == "compressed-tensors"
    assert section["config_groups"]["group_0"]["weights"]["num_bits"] == 4
    layer = load_file(out / "model-layer-0000.safetensors")
    packed = sum(part.numel() * part.element_size() for name, part in layer.items() if name.endswith("weight_packed"))
    plain = sum(
        tensor.numel()
        for name, tensor in load_file(source / "model.safetensors").items()
        if name.startswith("model.layers.0.") and name.endswith("proj.weight")
    )
    assert packed * 2 == plain


def _bytes_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


def test_what_was_interrupted_goes_on_and_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--method", "gptq", "--group-size", "16")
    assert command_line(str(source), "--out", str(tmp_path / "whole"), *options).exit_code == 0
    observed: list[int] = []
    observe = quantizing._observe

    def fail_at_the_second(*arguments: Any) -> Any:
        observed.append(1)
        if len(observed) == 2:
            raise KeyboardInterrupt
        return observe(*arguments)

    monkeypatch.setattr(quantizing, "_observe", fail_at_the_second)
    assert command_line(str(source), "--out", str(tmp_path / "cut"), *options).exit_code == 130
    assert not (tmp_path / "cut").exists()
    other = command_line(str(source), "--out", str(tmp_path / "cut"), "--method", "awq")
    assert (other.exit_code, "method: was begun with 'gptq', not 'awq'" in other.stderr) == (2, True)
    assert command_line(str(source), "--out", str(tmp_path / "cut"), *options).exit_code == 0
    assert len(observed) == 3  # the first layer was not calibrated again
    assert _bytes_of(tmp_path / "cut") == _bytes_of(tmp_path / "whole")


def test_calibration_reads_the_file_that_is_named_and_refuses_one_that_is_too_short(
    source: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("hello world " * 200)
    assert command_line(str(source), "--calibration", str(text), "--out", str(tmp_path / "out")).exit_code == 0
    builtin = command_line(str(source), "--out", str(tmp_path / "other"))
    assert builtin.exit_code == 0
    assert _bytes_of(tmp_path / "out") != _bytes_of(tmp_path / "other")
    text.write_text("hello")
    short = command_line(str(source), "--calibration", str(text), "--out", str(tmp_path / "third"))
    assert (short.exit_code, "too few for 4 times 32" in short.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--method", "magic"), "'magic' is not one of"),
        (("--bits", "5"), "5 bits are not supported, only 2, 4, 8"),
        (("--method", "rtn", "--group-size", "13"), "group size 13 does not divide 64 columns"),
        (("--calibration", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    source: Path, tmp_path: Path, options: tuple[str, ...], problem: str
) -> None:
    finished = command_line(str(source), "--out", str(tmp_path / "out"), *options)
    assert finished.exit_code == 2
    assert problem in finished.stderr.replace("\n", "")
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_taken_and_a_model_that_is_quantized_are_refused(source: Path, tmp_path: Path) -> None:
    taken = command_line(str(source), "--method", "rtn", "--out", str(source))
    assert (taken.exit_code, "not an empty directory" in taken.stderr) == (2, True)
    assert command_line(str(source), "--method", "rtn", "--out", str(tmp_path / "once")).exit_code == 0
    again = command_line(str(tmp_path / "once"), "--method", "rtn", "--out", str(tmp_path / "twice"))
    assert (again.exit_code, "is quantized already" in again.stderr) == (2, True)
    with pytest.raises(CheckpointError, match="must be the directory"):
        tool.quantize_checkpoint(source / "config.json", tmp_path / "x", tool.QuantizationChoice(method="rtn"))


def test_experts_are_refused_by_name(tmp_path: Path, random_model: SaveModel) -> None:
    finished = command_line(str(random_model("mixtral")[0]), "--method", "rtn", "--out", str(tmp_path / "out"))
    assert (finished.exit_code, "mixtures of experts" in finished.stderr) == (2, True)


def test_the_text_that_judges_is_not_the_text_that_calibrates() -> None:
    calibration, held = builtin_text(Part.CALIBRATION), builtin_text(Part.HELD)
    assert len(calibration) > 80_000
    assert len(held) > 200_000
    assert {line for line in calibration.splitlines() if line.strip()}.isdisjoint(held.splitlines())


def test_a_text_is_cut_from_its_beginning_and_named_by_its_tokens(source: Path) -> None:
    tokenizer = Tokenizer.from_directory(source)
    two = windows(tokenizer, "hello world, hello", length=4, count=2)
    assert two.shape == (2, 4)
    assert two.flatten().tolist() == tokenizer.encode("hello world, hello")[:8]
    assert windows(tokenizer, "hello world, hello", length=4).shape[0] >= 2
    assert digest(two) != digest(two.view(1, 8))
    with pytest.raises(ValueError, match="too few for 9 times 4"):
        windows(tokenizer, "hello world", length=4, count=9)
