"""Writes quantized layers in the compressed-tensors layout, and the section of config.json that describes them.

Source: the compressed-tensors package 0.20 (quantization/quant_config.py, compressors/pack_quantized).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from services.worker.engine.quantization.packing import pack_codes
from services.worker.engine.quantization.quantization_error import UnsupportedScheme
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme

_WORD_BYTES = 4
_BYTE_WIDE = 8
_MOST_NAMED_TARGETS = "Linear"


def stored_format(scheme: QuantizationScheme) -> str:
    if scheme.number_format is NumberFormat.FLOAT8_E4M3:
        return "float-quantized"
    if scheme.number_format is not NumberFormat.INTEGER:
        raise UnsupportedScheme(f"{scheme.number_format} has no compressed-tensors format")
    return "int-quantized" if scheme.bits == _BYTE_WIDE else "pack-quantized"


def encode(tensor: QuantizedTensor) -> dict[str, torch.Tensor]:
    """The parts of MODULE, by suffix. Raises UnsupportedScheme for what the layout has no place for."""
    scheme = tensor.scheme
    if tensor.minimums is not None or tensor.group_index is not None:
        raise UnsupportedScheme("compressed-tensors has no minimums and no order of columns")
    scales = tensor.scales.reshape(1) if scheme.granularity is Granularity.TENSOR else tensor.scales
    parts = {"weight_scale": scales.contiguous()}
    if stored_format(scheme) == "pack-quantized":
        parts["weight_packed"] = _words(tensor.codes)
        parts["weight_shape"] = torch.tensor(tensor.shape, dtype=torch.int64)
        if tensor.zero_points is not None:
            parts["weight_zero_point"] = _words(pack_codes(tensor.zero_points.T, scheme.bits)).T.contiguous()
        return parts
    if scheme.number_format is NumberFormat.INTEGER:
        parts["weight"] = _signed(tensor.codes)
        if tensor.zero_points is not None:
            parts["weight_zero_point"] = _signed(tensor.zero_points).reshape(scales.shape)
        return parts
    parts["weight"] = tensor.codes.view(torch.float8_e4m3fn)
    return parts


def quantization_config(
    targets: Mapping[QuantizationScheme, list[str]],
    *,
    activations: QuantizationScheme | None,
    ignored: list[str],
) -> dict[str, Any]:
    """`targets` names the modules of each scheme; the scheme of the most modules is said to be that of every Linear."""
    by_size = sorted(targets, key=lambda scheme: -len(targets[scheme]))
    groups = {}
    for number, scheme in enumerate(by_size):
        groups[f"group_{number}"] = {
            "targets": [_MOST_NAMED_TARGETS] if number == 0 else _patterns(targets[scheme]),
            "weights": _arguments(scheme, is_dynamic=False),
            "input_activations": _input_arguments(scheme, activations),
            "output_activations": None,
            "format": stored_format(scheme),
        }
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": stored_format(by_size[0]),
        "config_groups": groups,
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def _input_arguments(weights: QuantizationScheme, activations: QuantizationScheme | None) -> dict[str, Any] | None:
    """Where inputs have groups they are those of the weights, which differ by width."""
    if activations is not None and activations.group_size is not None:
        activations = replace(activations, group_size=weights.group_size)
    return None if activations is None else _arguments(activations, is_dynamic=True)


def _arguments(scheme: QuantizationScheme, *, is_dynamic: bool) -> dict[str, Any]:
    """Of dynamic ones a row is a token."""
    strategy = "token" if is_dynamic and scheme.group_size is None else scheme.granularity.value
    return {
        "num_bits": scheme.bits,
        "type": "int" if scheme.number_format is NumberFormat.INTEGER else "float",
        "symmetric": scheme.is_symmetric,
        "strategy": strategy,
        "group_size": scheme.group_size,
        "dynamic": is_dynamic,
    }


def _patterns(modules: list[str]) -> list[str]:
    """One for each kind of layer: `re:.*down_proj$` rather than thirty names."""
    return [
        f"re:.*{kind.replace('.', chr(92) + '.')}$" for kind in sorted({name.rsplit(".", 1)[-1] for name in modules})
    ]


def _words(packed: torch.Tensor) -> torch.Tensor:
    """uint8 [rows, bytes] -> int32 [rows, words], rows padded with zeros."""
    padded = functional.pad(packed, (0, -packed.shape[1] % _WORD_BYTES))
    return padded.contiguous().view(torch.int32)


def _signed(codes: torch.Tensor) -> torch.Tensor:
    return (codes ^ 0x80).view(torch.int8)
