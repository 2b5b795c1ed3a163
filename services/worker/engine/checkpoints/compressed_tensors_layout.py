"""The compressed-tensors layout: pack-quantized, int-quantized, float-quantized and naive-quantized.

Source: the compressed-tensors package 0.20 (quantization/quant_args.py, compressors/pack_quantized).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.weight_layout import FLOATS, Part, unpack_words
from services.worker.engine.quantization.packing import pack_codes, packed_bytes
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme

PACKED = "pack-quantized"
_BYTE_WIDE = ("int-quantized", "float-quantized", "naive-quantized")
_LINEAR = "Linear"
_EMBEDDING = "model.embed_tokens"
_PATTERN = "re:"
_WORD_BYTES = 4
_STRATEGIES = {
    "tensor": Granularity.TENSOR,
    "channel": Granularity.CHANNEL,
    "group": Granularity.GROUP,
    "token": Granularity.CHANNEL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeGroup:
    """What the modules that `targets` names are stored as."""

    targets: tuple[str, ...]
    format: str
    weights: QuantizationScheme
    activations: QuantizationScheme | None


class CompressedTensorsLayout:
    """Satisfies `WeightLayout`."""

    def __init__(self, groups: tuple[SchemeGroup, ...], ignored: tuple[str, ...]) -> None:
        self._groups = groups
        self._ignored = ignored

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part] | None:
        group = self._group_of(module)
        if group is None:
            return None
        scheme, (rows, columns) = group.weights, shape
        num_groups = scheme.num_groups(columns)
        scales: tuple[tuple[int, ...], ...] = ((rows, num_groups),)
        if scheme.granularity is Granularity.TENSOR:
            scales = ((1,), (), (1, 1))
        elif scheme.granularity is Granularity.CHANNEL:
            scales = ((rows, 1), (rows,))
        parts = {"weight_scale": Part(shapes=scales, dtypes=FLOATS)}
        if group.format == PACKED:
            words = -(-packed_bytes(columns, scheme.bits) // _WORD_BYTES)
            parts["weight_packed"] = Part(shapes=((rows, words),), dtypes=("I32",))
            parts["weight_shape"] = Part(shapes=((2,),), dtypes=("I64", "I32"), is_optional=True)
            parts["weight_g_idx"] = Part(shapes=((columns,),), dtypes=("I32", "I64"), is_optional=True)
            zero_words = -(-packed_bytes(rows, scheme.bits) // _WORD_BYTES)
            zero_points = Part(shapes=((zero_words, num_groups),), dtypes=("I32",))
        else:
            is_integer = scheme.number_format is NumberFormat.INTEGER
            parts["weight"] = Part(shapes=(shape,), dtypes=("I8",) if is_integer else ("F8_E4M3",))
            zero_points = Part(shapes=scales, dtypes=("I8",))
        if not scheme.is_symmetric:
            parts["weight_zero_point"] = zero_points
        return parts

    def assemble(self, module: str, shape: tuple[int, int], stored: Mapping[str, torch.Tensor]) -> QuantizedTensor:
        group = self._group_of(module)
        assert group is not None, module
        scheme, (rows, columns) = group.weights, shape
        scales = stored["weight_scale"]
        scales = scales.reshape(1, 1) if scheme.granularity is Granularity.TENSOR else scales.reshape(rows, -1)
        zero_points = stored.get("weight_zero_point")
        if group.format == PACKED:
            # Only as wide as it must be: the file pads rows to whole words.
            codes = stored["weight_packed"].contiguous().view(torch.uint8)[:, : packed_bytes(columns, scheme.bits)]
            if zero_points is not None:
                zero_points = unpack_words(zero_points.T, scheme.bits).T[:rows].contiguous()
        else:
            codes = stored["weight"].view(torch.uint8)
            if scheme.number_format is NumberFormat.INTEGER:
                codes = _from_signed(codes, scheme)
            if zero_points is not None:
                zero_points = _unsigned(zero_points.reshape(scales.shape), scheme)
        return QuantizedTensor(
            scheme=scheme,
            shape=shape,
            codes=codes.contiguous(),
            scales=scales.contiguous(),
            zero_points=zero_points,
            group_index=_group_index(stored.get("weight_g_idx"), scheme, columns),
            activations=group.activations,
        )

    def _group_of(self, module: str) -> SchemeGroup | None:
        """A module's own name or pattern goes before its class: "Linear" means all that no other group names."""
        if any(_matches(module, target) for target in self._ignored):
            return None
        named = (group for group in self._groups if any(_matches(module, target) for target in group.targets))
        by_class = (group for group in self._groups if _LINEAR in group.targets and module != _EMBEDDING)
        return next(named, None) or next(by_class, None)


def read_compressed_tensors(fields: ConfigFields) -> CompressedTensorsLayout:
    """`fields` are those of quantization_config. Raises CheckpointError by the field's name."""
    groups = fields.section("config_groups")
    if groups is None or not groups.raw:
        raise fields.error("config_groups", "is missing or empty")
    if fields.raw.get("kv_cache_scheme") is not None:
        raise fields.error("kv_cache_scheme", "a cache scheme of the checkpoint's own is not supported")
    whole_format = fields.raw.get("format")
    found = tuple(_read_group(groups, name, whole_format) for name in groups.raw)
    return CompressedTensorsLayout(found, _names(fields, "ignore"))


def _read_group(groups: ConfigFields, name: str, whole_format: object) -> SchemeGroup:
    group = groups.section(name)
    weights = None if group is None else group.section("weights")
    if group is None or weights is None:
        raise groups.error(name, "has no weights scheme")
    stored_as = group.raw.get("format") or whole_format
    if stored_as not in (PACKED, *_BYTE_WIDE):
        raise group.error("format", f"{stored_as!r} is not one of {PACKED}, {', '.join(_BYTE_WIDE)}")
    if weights.raw.get("dynamic"):
        raise weights.error("dynamic", "weights cannot be quantized while running")
    if group.raw.get("output_activations") is not None:
        raise group.error("output_activations", "is not supported")
    scheme = _read_scheme(weights)
    if stored_as != PACKED and scheme.bits != 8:
        raise weights.error("num_bits", f"{scheme.bits} bits are not stored as {stored_as}")
    if stored_as == PACKED and scheme.number_format is not NumberFormat.INTEGER:
        raise weights.error("type", f"floats are not stored as {stored_as}")
    if stored_as == PACKED and scheme.granularity is Granularity.TENSOR and not scheme.is_symmetric:
        raise weights.error("strategy", "zero points per tensor are not packed")
    return SchemeGroup(
        targets=_names(group, "targets"), format=str(stored_as), weights=scheme, activations=_read_activations(group)
    )


def _read_activations(group: ConfigFields) -> QuantizationScheme | None:
    activations = group.section("input_activations")
    if activations is None:
        return None
    if activations.raw.get("dynamic") is not True or activations.raw.get("strategy") not in ("token", "group"):
        raise activations.error("dynamic", "only activations quantized while running, per token or group, are read")
    return _read_scheme(activations)


def _read_scheme(fields: ConfigFields) -> QuantizationScheme:
    kind = fields.raw.get("type", "int")
    if kind not in ("int", "float"):
        raise fields.error("type", f"{kind!r} is neither int nor float")
    size = fields.raw.get("group_size")
    group_size = None if size == -1 else fields.optional_integer("group_size")
    strategy = fields.raw.get("strategy") or ("tensor" if size is None else "group" if group_size else "channel")
    if strategy not in _STRATEGIES:
        raise fields.error("strategy", f"{strategy!r} is not one of {', '.join(_STRATEGIES)}")
    granularity = _STRATEGIES[str(strategy)]
    try:
        return QuantizationScheme(
            bits=fields.positive_integer("num_bits", default=8),
            granularity=granularity,
            group_size=group_size if granularity is Granularity.GROUP else None,
            is_symmetric=fields.boolean("symmetric", default=True),
            number_format=NumberFormat.INTEGER if kind == "int" else NumberFormat.FLOAT8_E4M3,
        )
    except QuantizationError as error:
        raise fields.error("num_bits", str(error)) from error


def _names(fields: ConfigFields, field: str) -> tuple[str, ...]:
    """Module names, `re:` and a pattern, or a class; patterns must compile."""
    names = fields.raw.get(field) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fields.error(field, f"must be a list of names, not {names!r}")
    for name in names:
        try:
            re.compile(name.removeprefix(_PATTERN) if name.startswith(_PATTERN) else "")
        except re.error as error:
            raise fields.error(field, f"{name!r} is no regular expression: {error}") from error
    return tuple(names)


def _matches(module: str, target: str) -> bool:
    if target.startswith(_PATTERN):
        return re.match(target.removeprefix(_PATTERN), module) is not None
    return module == target


def _from_signed(codes: torch.Tensor, scheme: QuantizationScheme) -> torch.Tensor:
    return pack_codes(codes ^ (1 << (scheme.bits - 1)), scheme.bits)


def _unsigned(signed: torch.Tensor, scheme: QuantizationScheme) -> torch.Tensor:
    return (signed.to(torch.int16) + scheme.implied_zero_point).to(torch.uint8)


def _group_index(index: torch.Tensor | None, scheme: QuantizationScheme, columns: int) -> torch.Tensor | None:
    """None where columns lie in order; -1 everywhere is compressed-tensors' word for that."""
    if index is None or scheme.group_size is None or bool((index < 0).any()):
        return None
    in_order = torch.arange(columns, dtype=torch.int32) // scheme.group_size
    return None if torch.equal(index.to(torch.int32), in_order) else index.to(torch.int32)
