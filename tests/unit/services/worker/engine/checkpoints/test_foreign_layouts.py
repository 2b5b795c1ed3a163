"""Layers packed by AutoAWQ, GPTQModel and compressed-tensors: we read what their own code reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization import QuantizationScheme as ForeignScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file

from services.worker.engine.checkpoints.awq_layout import read_awq
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.gptq_layout import read_gptq
from services.worker.engine.checkpoints.weights import open_checkpoint
from tests.fixtures.tiny_checkpoint import TINY_CONFIG, tiny_tensors

FILES = Path(__file__).parents[5] / "fixtures" / "foreign_quantized"
MODULE = "model.layers.0.mlp.up_proj"
TENSOR = f"{MODULE}.weight"


def _fields(**raw: Any) -> ConfigFields:
    return ConfigFields(raw, Path("config.json"), prefix="quantization_config.")


def test_a_layer_packed_by_autoawq_has_the_values_that_autoawq_reads() -> None:
    stored = load_file(FILES / "autoawq-int4.safetensors")
    expected = stored.pop("dequantized")
    layout = read_awq(_fields(bits=4, group_size=32, zero_point=True, version="gemm"))
    parts = layout.parts(MODULE, (64, 128))
    assert parts is not None
    assert {suffix: part.shapes[0] for suffix, part in parts.items()} == {k: tuple(v.shape) for k, v in stored.items()}
    tensor = layout.assemble(MODULE, (64, 128), stored)
    assert tensor.bits_per_value < 5
    torch.testing.assert_close(tensor.dequantize(torch.float16), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gptq-int4-act-order", {"bits": 4, "sym": False, "desc_act": True, "checkpoint_format": "gptq"}),
        ("gptq-int8-symmetric", {"bits": 8, "sym": True, "desc_act": False}),
        ("gptq-v2-int2", {"bits": 2, "sym": False, "checkpoint_format": "gptq_v2"}),
    ],
)
def test_a_layer_packed_by_gptqmodel_has_the_values_that_gptqmodel_reads(name: str, config: dict[str, Any]) -> None:
    stored = load_file(FILES / f"{name}.safetensors")
    expected = stored.pop("dequantized")
    layout = read_gptq(_fields(group_size=32, **config))
    parts = layout.parts(MODULE, (64, 128))
    assert parts is not None
    assert {suffix: part.shapes[0] for suffix, part in parts.items()} == {k: tuple(v.shape) for k, v in stored.items()}
    tensor = layout.assemble(MODULE, (64, 128), stored)
    assert tensor.scheme.is_symmetric is config["sym"]
    assert (tensor.group_index is None) is not config.get("desc_act", False)
    torch.testing.assert_close(tensor.dequantize(), expected, rtol=2e-3, atol=1e-4)


def test_reading_version_1_as_version_2_is_noticed_by_these_files() -> None:
    stored = load_file(FILES / "gptq-int4-act-order.safetensors")
    expected = stored.pop("dequantized")
    tensor = read_gptq(_fields(bits=4, group_size=32, checkpoint_format="gptq_v2")).assemble(MODULE, (64, 128), stored)
    assert (tensor.dequantize() - expected).abs().max() > 0.1


def _write_checkpoint(
    directory: Path,
    quantization: dict[str, Any],
    parts: dict[str, torch.Tensor],
    *,
    tensors: dict[str, Any] | None = None,
) -> Path:
    """A tiny model whose one layer MODULE consists of `parts`."""
    tensors = dict(tiny_tensors(TINY_CONFIG) if tensors is None else tensors)
    del tensors[TENSOR]
    tensors |= {f"{MODULE}.{suffix}": part.contiguous() for suffix, part in parts.items()}
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**TINY_CONFIG, "quantization_config": quantization}))
    save_file(tensors, directory / "model.safetensors")
    return directory


def _foreign(weights: dict[str, Any], *, stored_as: str, targets: list[str] | None = None) -> dict[str, Any]:
    group = {"targets": targets or [MODULE], "weights": weights}
    return {"quant_method": "compressed-tensors", "format": stored_as, "config_groups": {"group_0": group}}


INT4_GROUPS = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 16}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("group_size", [16, None])
def test_what_compressed_tensors_packs_we_read_as_it_does(
    tmp_path: Path, bits: int, is_symmetric: bool, group_size: int | None
) -> None:
    weight = tiny_tensors(TINY_CONFIG)[TENSOR]
    strategy = "channel" if group_size is None else "group"
    arguments = QuantizationArgs(num_bits=bits, symmetric=is_symmetric, strategy=strategy, group_size=group_size)
    groups = weight.unflatten(1, (-1, group_size or weight.shape[1]))
    scales, zero_points = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
    state = {"weight": weight, "weight_scale": scales, "weight_zero_point": zero_points}
    scheme = ForeignScheme(targets=["Linear"], weights=arguments)
    packed = PackedQuantizationCompressor.compress(state, scheme)
    expected = PackedQuantizationCompressor.decompress(packed, scheme)["weight"]
    written = _foreign(arguments.model_dump(mode="json"), stored_as="pack-quantized")
    checkpoint = open_checkpoint(_write_checkpoint(tmp_path / "model", written, packed))
    quantized = checkpoint.quantized(TENSOR)
    assert quantized is not None
    assert (quantized.scheme.bits, quantized.scheme.group_size) == (bits, group_size)
    torch.testing.assert_close(checkpoint.tensor(TENSOR), expected, rtol=1e-6, atol=1e-7)
    assert (checkpoint.tensor(TENSOR) - weight).abs().max() < 2 * scales.max()
    assert checkpoint.quantized("model.layers.1.mlp.up_proj.weight") is None
    assert checkpoint.quantized("model.embed_tokens.weight") is None


@pytest.mark.parametrize(
    ("stored_as", "weights"),
    [
        ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}),
        ("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}),
    ],
)
def test_codes_of_a_whole_byte_are_read_as_they_lie(tmp_path: Path, stored_as: str, weights: dict[str, Any]) -> None:
    codes = torch.randint(-127, 128, (48, 32), generator=torch.Generator().manual_seed(2)).to(torch.int8)
    is_integer = weights["type"] == "int"
    scale = torch.rand(48, 1) if is_integer else torch.tensor([0.25])
    stored = codes if is_integer else codes.float().to(torch.float8_e4m3fn)
    group = _foreign(weights, stored_as=stored_as)
    group["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True, "strategy": "token"}
    checkpoint = open_checkpoint(
        _write_checkpoint(tmp_path / "model", group, {"weight": stored, "weight_scale": scale})
    )
    quantized = checkpoint.quantized(TENSOR)
    assert quantized is not None
    assert quantized.activations is not None
    assert torch.equal(checkpoint.tensor(TENSOR), stored.float() * scale)


def test_a_bias_of_zeros_that_a_packer_added_is_no_complaint_and_another_one_is(tmp_path: Path) -> None:
    codes = {"weight": torch.ones(48, 32, dtype=torch.int8), "weight_scale": torch.ones(48, 1)}
    config = _foreign({"num_bits": 8, "strategy": "channel"}, stored_as="int-quantized")
    open_checkpoint(_write_checkpoint(tmp_path / "model", config, {**codes, "bias": torch.zeros(48)}))
    with pytest.raises(CheckpointError, match=r"up_proj.bias: the tensor has no place"):
        open_checkpoint(_write_checkpoint(tmp_path / "model", config, {**codes, "bias": torch.ones(48)}))


def test_the_fingerprint_tells_two_schemes_apart_over_the_same_files(tmp_path: Path) -> None:
    codes = {"weight": torch.ones(48, 32, dtype=torch.int8), "weight_scale": torch.ones(48, 1)}
    config = _foreign({"num_bits": 8, "strategy": "channel"}, stored_as="int-quantized")
    plain = open_checkpoint(_write_checkpoint(tmp_path / "model", config, codes)).fingerprint
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": True, "strategy": "token"}
    assert open_checkpoint(_write_checkpoint(tmp_path / "model", config, codes)).fingerprint != plain


def _int4_parts() -> dict[str, torch.Tensor]:
    return {
        "weight_packed": torch.zeros(48, 4, dtype=torch.int32),
        "weight_scale": torch.ones(48, 2),
        "weight_zero_point": torch.zeros(6, 2, dtype=torch.int32),
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"weight_packed": None}, r"up_proj.weight_packed: the part of a quantized weight is missing"),
        ({"weight_zero_point": None}, r"up_proj.weight_zero_point: the part"),
        ({"weight_scale": torch.ones(48, 3)}, r"up_proj.weight_scale: shape is \(48, 3\), must be \(48, 2\)"),
        ({"weight_packed": torch.zeros(48, 4)}, r"up_proj.weight_packed: dtype is F32, must be I32"),
        ({"weight_extra": torch.ones(1)}, r"up_proj.weight_extra: the tensor has no place"),
    ],
)
def test_a_part_that_does_not_fit_is_named(
    tmp_path: Path, change: dict[str, torch.Tensor | None], problem: str
) -> None:
    parts = {name: part for name, part in {**_int4_parts(), **change}.items() if part is not None}
    with pytest.raises(CheckpointError, match=problem):
        open_checkpoint(_write_checkpoint(tmp_path / "model", _foreign(INT4_GROUPS, stored_as="pack-quantized"), parts))


def test_a_scale_that_is_no_number_is_found_when_the_weight_is_read(tmp_path: Path) -> None:
    parts = {**_int4_parts(), "weight_scale": torch.full((48, 2), torch.inf)}
    checkpoint = open_checkpoint(
        _write_checkpoint(tmp_path / "model", _foreign(INT4_GROUPS, stored_as="pack-quantized"), parts)
    )
    with pytest.raises(CheckpointError, match="not a finite number"):
        checkpoint.tensor(TENSOR)


def test_a_plain_weight_of_integers_is_refused_beside_quantized_ones(tmp_path: Path) -> None:
    tensors = dict(tiny_tensors(TINY_CONFIG))
    tensors["model.norm.weight"] = torch.ones(32, dtype=torch.int8)
    with pytest.raises(CheckpointError, match=r"model.norm.weight: dtype I8 is not supported here"):
        open_checkpoint(
            _write_checkpoint(
                tmp_path / "model", _foreign(INT4_GROUPS, stored_as="pack-quantized"), _int4_parts(), tensors=tensors
            )
        )


@pytest.mark.parametrize(
    ("quantization", "problem"),
    [
        ({"quant_method": "bitsandbytes"}, r"quantization_config.quant_method: 'bitsandbytes' is not one of"),
        ({}, r"quant_method: None is not one of"),
        ({"quant_method": "compressed-tensors"}, r"config_groups: is missing"),
        ({"quant_method": "awq", "bits": 8}, r"quantization_config.bits: 8 is not supported, only 4"),
        ({"quant_method": "awq", "version": "marlin"}, r"version: 'marlin' is not supported"),
        ({"quant_method": "awq", "zero_point": False}, r"zero_point: files without"),
        ({"quant_method": "awq", "modules_to_not_convert": 3}, r"modules_to_not_convert: must be a list"),
        ({"quant_method": "gptq", "bits": 3}, r"quantization_config.bits: 3 bits are not supported, only 2, 4, 8"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, r"checkpoint_format: 'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": 1}}, r"dynamic: schemes that differ"),
        ({"quant_method": "gptq", "bits": 4, "lm_head": True}, r"lm_head: a quantized head"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 24}, r"group size 24 does not divide 32 columns"),
        (
            _foreign({"num_bits": 4, "strategy": "block"}, stored_as="pack-quantized"),
            r"strategy: 'block' is not one of",
        ),
        (
            _foreign({"num_bits": 4, "strategy": "channel"}, stored_as="int-quantized"),
            r"num_bits: 4 bits are not stored",
        ),
        (_foreign({"num_bits": 4, "type": "float"}, stored_as="nvfp4-pack-quantized"), r"format: 'nvfp4-pack-quant"),
        (_foreign({"num_bits": 8, "dynamic": True}, stored_as="int-quantized"), r"dynamic: weights cannot be"),
        (_foreign({"num_bits": 8, "type": "int8"}, stored_as="int-quantized"), r"type: 'int8' is neither"),
        (_foreign(INT4_GROUPS, stored_as="pack-quantized", targets=["re:("]), r"targets: 're:\(' is no regular"),
    ],
)
def test_a_scheme_that_nobody_here_reads_is_refused_by_its_field(
    tmp_path: Path, quantization: dict[str, Any], problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        open_checkpoint(_write_checkpoint(tmp_path / "model", quantization, _int4_parts()))


def test_activations_with_scales_of_the_files_own_are_refused(tmp_path: Path) -> None:
    config = _foreign({"num_bits": 8, "strategy": "channel"}, stored_as="int-quantized")
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": False, "strategy": "tensor"}
    with pytest.raises(CheckpointError, match="only activations quantized while running"):
        open_checkpoint(_write_checkpoint(tmp_path / "model", config, _int4_parts()))
