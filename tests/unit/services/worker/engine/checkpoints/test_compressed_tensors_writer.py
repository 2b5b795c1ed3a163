"""What we write is what compressed-tensors' own code unpacks, and what our reader reads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig

from services.worker.engine.checkpoints.compressed_tensors_layout import read_compressed_tensors
from services.worker.engine.checkpoints.compressed_tensors_writer import encode, quantization_config, stored_format
from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.quantization.quantization_error import UnsupportedScheme
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import quantize
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme, integers

MODULE = "model.layers.3.mlp.down_proj"
WEIGHT = torch.randn(12, 96, generator=torch.Generator().manual_seed(0))
PACKED = [
    integers(bits, group_size=group_size, is_symmetric=is_symmetric)
    for bits in (2, 4)
    for group_size in (32, None)
    for is_symmetric in (True, False)
]
BYTES = [
    integers(8),
    integers(8, is_symmetric=False),
    integers(8, group_size=32),
    QuantizationScheme(bits=8, granularity=Granularity.TENSOR),
    QuantizationScheme(bits=8, number_format=NumberFormat.FLOAT8_E4M3),
]


def _read_again(tensor: QuantizedTensor) -> QuantizedTensor:
    config = quantization_config({tensor.scheme: [MODULE]}, activations=None, ignored=["lm_head"])

    layout = read_compressed_tensors(ConfigFields(config, Path("config.json")))
    stored = encode(tensor)
    parts = layout.parts(MODULE, tensor.shape)
    assert parts is not None
    assert all(tuple(part.shape) in parts[suffix].shapes for suffix, part in stored.items())
    assert layout.parts("lm_head", (4, 96)) is None
    return layout.assemble(MODULE, tensor.shape, stored)


@pytest.mark.parametrize("scheme", [*PACKED, *BYTES], ids=repr)
def test_what_is_written_is_read_again_bit_by_bit(scheme: QuantizationScheme) -> None:
    tensor = quantize(WEIGHT, scheme, scale_dtype=torch.bfloat16)
    again = _read_again(tensor)
    assert again.scheme == scheme
    assert torch.equal(again.codes, tensor.codes)
    assert torch.equal(again.dequantize(), tensor.dequantize())


@pytest.mark.parametrize("scheme", PACKED, ids=repr)
def test_compressed_tensors_unpacks_what_we_packed(scheme: QuantizationScheme) -> None:
    tensor = quantize(WEIGHT, scheme)
    config = QuantizationConfig(**quantization_config({scheme: [MODULE]}, activations=None, ignored=[]))
    foreign = PackedQuantizationCompressor.decompress(encode(tensor), config.config_groups["group_0"])  # type: ignore[arg-type]
    torch.testing.assert_close(foreign["weight"], tensor.dequantize(), rtol=1e-6, atol=1e-7)


def test_several_schemes_name_their_modules_and_the_largest_is_the_rule() -> None:
    coarse, fine = integers(4, group_size=128), integers(4, group_size=96)
    names = [f"model.layers.{index}.self_attn.q_proj" for index in range(3)]
    config = quantization_config({coarse: [MODULE], fine: names}, activations=integers(8), ignored=["lm_head"])
    groups = config["config_groups"]
    assert groups["group_0"]["targets"] == ["Linear"]
    assert groups["group_0"]["weights"]["group_size"] == 96
    assert groups["group_1"]["targets"] == ["re:.*down_proj$"]
    assert groups["group_1"]["input_activations"]["strategy"] == "token"
    parsed = QuantizationConfig(**config)
    assert set(parsed.config_groups) == {"group_0", "group_1"}

    layout = read_compressed_tensors(ConfigFields(config, Path("config.json")))
    parts = layout.parts(MODULE, (8, 1536))
    assert parts is not None
    assert parts["weight_scale"].shapes == ((8, 12),)


def test_what_the_layout_has_no_place_for_is_refused() -> None:
    tensor = quantize(WEIGHT, integers(4, group_size=32))
    with pytest.raises(UnsupportedScheme, match="no minimums"):
        encode(replace(tensor, minimums=torch.zeros_like(tensor.scales)))
    with pytest.raises(UnsupportedScheme, match="no order"):
        encode(replace(tensor, group_index=torch.zeros(96, dtype=torch.int32)))
    with pytest.raises(UnsupportedScheme, match="float8_e5m2"):
        stored_format(QuantizationScheme(bits=8, number_format=NumberFormat.FLOAT8_E5M2))
