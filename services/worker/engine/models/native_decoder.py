"""All layers of a decoder in one call of decoder_step.c: the threads start once a step instead of once an operator.

For what most models are made of: bfloat16, dense layers, norms before attention and feed forward. `why_not_native`
says by name what keeps a model on the operators of `decoder.py`, which do the same and are what this is tested against.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.attention.native_attention import NativeAttention
from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.checkpoints.model_config import Activation, DecoderConfig
from services.worker.engine.checkpoints.rope_scaling import Rope
from services.worker.engine.models.feed_forward import DenseFeedForward
from services.worker.engine.models.layer_weights import DecoderLayer
from services.worker.engine.models.linear import Linear, NativeLinear
from services.worker.engine.models.quantized_native import CodedLinear, CodedRows, IntegerLinear, TableLinear
from services.worker.engine.native.library import load_decoder_step
from services.worker.engine.native.step_structures import (
    STEP_PARTS,
    DecoderStructure,
    LayerStructure,
    LayoutStructure,
    LinearStructure,
    StepStructure,
)

_LANES = 16
BYTES_OF_SCRATCH = 4 * _LANES * 2
"""For each inner value: four strips of 16 columns, looked up."""


def why_not_native(config: DecoderConfig, layers: list[DecoderLayer], attention: AttentionBackend) -> str:
    """Empty when a step of this model can be one native call."""
    if not isinstance(attention, NativeAttention):
        return f"{attention.name} attention"
    if load_decoder_step() is None:
        return "no native library"
    if config.head_size % _LANES or config.intermediate_size % _LANES:
        return f"heads of {config.head_size} or {config.intermediate_size} inner values are not whole groups of 16"
    return next((reason for layer in layers if (reason := _why_not_layer(layer))), "")


def _why_not_layer(layer: DecoderLayer) -> str:
    if layer.attention_post_norm is not None or layer.feed_forward_post_norm is not None:
        return "norms before the residual"
    norms = (layer.input_norm, layer.inner_norm, layer.query_norm, layer.key_norm)
    if any(norm is not None and norm.dtype is not torch.bfloat16 for norm in norms):
        return "norm weights that are not bfloat16"
    block = layer.feed_forward
    if not isinstance(block, DenseFeedForward):
        return "experts"
    linears = (layer.query_key_value, layer.output, block.gate_up, block.down)
    return "" if all(map(_is_native, linears)) else "weights of another format"


def _is_native(linear: Linear) -> bool:
    if isinstance(linear, TableLinear):
        return linear.rounds_inputs is None
    return isinstance(linear, NativeLinear | IntegerLinear)


class NativeDecoder:
    """Holds pointers into the layers' tensors and one step's buffers, which grow with the longest step."""

    def __init__(
        self, config: DecoderConfig, layers: list[DecoderLayer], rope_tables: Mapping[Rope | None, torch.Tensor]
    ) -> None:
        step = load_decoder_step()
        assert step is not None, "why_not_native asks before"
        self._run = step
        self._config = config
        self._kept = (layers, rope_tables)
        self._layers = (LayerStructure * len(layers))(*(_layer(layer, rope_tables[layer.rope]) for layer in layers))
        self._decoder = DecoderStructure(
            layers=self._layers,
            num_layers=len(layers),
            hidden=config.hidden_size,
            num_query_heads=config.num_query_heads,
            num_kv_heads=config.num_kv_heads,
            head_size=config.head_size,
            inner=config.intermediate_size,
            is_gelu=config.activation is Activation.GELU,
            epsilon=config.rms_norm_eps,
        )
        self._caches: Sequence[LayerCache] | None = None
        self._seconds: ctypes.Array[ctypes.c_double] | None = None
        self._buffer = torch.empty(0, dtype=torch.bfloat16)
        self._coded = [linear for layer in layers for linear in _linears(layer) if isinstance(linear, CodedLinear)]
        self._most_inner = max((linear.weights.num_padded for linear in self._coded), default=0)
        self._most_groups = max((linear.weights.num_groups for linear in self._coded), default=0)
        self._coded_rows = CodedRows(0, 0, 0)
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def forward(
        self, residual: torch.Tensor, caches: Sequence[LayerCache], layouts: Sequence[StepLayout]
    ) -> torch.Tensor:
        """residual [T, hidden], overwritten: embeddings in, the last layer's output before the norm out."""
        if self._caches is not caches:
            self._point_at(caches)
        first = layouts[0]
        step = StepStructure(
            layouts=(LayoutStructure * len(layouts))(*map(_layout, layouts)),
            positions=first.positions.data_ptr(),
            context_lengths=first.context_lengths.data_ptr(),
            query_starts=first.query_starts.data_ptr(),
            residual=residual.data_ptr(),
            tokens=residual.shape[0],
            sequences=first.num_sequences,
            singles=first.num_single,
            block_size=first.block_size_tokens,
            runs=first.num_single if first.run_starts is None else len(first.run_starts) - 1,
            seconds=None if self._seconds is None else ctypes.addressof(self._seconds),
            **self._buffers(residual.shape[0]),
            **self._coded_buffers(residual.shape[0]),
        )
        self._run(ctypes.byref(self._decoder), ctypes.byref(step))
        return residual

    @contextmanager
    def timed(self) -> Iterator[dict[str, float]]:
        """Filled at the end: seconds of processor time that the first thread spent in each part of a step."""
        found: dict[str, float] = {}
        self._seconds = (ctypes.c_double * len(STEP_PARTS))()
        try:
            yield found
        finally:
            found.update(zip(STEP_PARTS, self._seconds, strict=True))
            self._seconds = None

    def _point_at(self, caches: Sequence[LayerCache]) -> None:
        for structure, cache in zip(self._layers, caches, strict=True):
            structure.keys, structure.values = cache.keys.data_ptr(), cache.values.data_ptr()
            structure.layout = cache.group
            structure.cell_format = 0 if cache.cells is None else cache.cells.format
            structure.cell_bytes = 0 if cache.cells is None else cache.cells.num_bytes
            structure.frame = None if cache.frame is None else cache.frame.numbers.data_ptr()
        self._caches = caches

    def _buffers(self, num_tokens: int) -> dict[str, int]:
        config = self._config
        heads, kv_heads, size = config.num_query_heads, config.num_kv_heads, config.head_size
        widths = {
            "normed": config.hidden_size,
            "projected": (heads + 2 * kv_heads) * size,
            "queries": heads * size,
            "attended": heads * size,
            "update": config.hidden_size,
            "gated": config.intermediate_size,
        }
        needed = num_tokens * sum(widths.values())
        if self._buffer.numel() < needed:
            self._buffer = torch.empty(needed, dtype=torch.bfloat16)
        places, place = {}, self._buffer.data_ptr()
        for name, width in widths.items():
            places[name] = place
            place += num_tokens * width * self._buffer.itemsize
        return places

    def _coded_buffers(self, num_tokens: int) -> dict[str, Any]:
        if not self._coded:
            return {}
        if len(self._coded_rows.codes) < num_tokens:
            self._coded_rows = CodedRows(self._most_inner, self._most_groups, num_tokens)
        places: dict[str, Any] = {"coded": self._coded_rows.structure}
        if num_tokens >= min(linear.structure.expand_from_rows for linear in self._coded):
            each, threads = self._most_inner * BYTES_OF_SCRATCH, torch.get_num_threads()
            if self._scratch.numel() < each * threads:
                self._scratch = torch.empty(each * threads, dtype=torch.uint8)
            places |= {"scratch": self._scratch.data_ptr(), "scratch_bytes": each}
        return places


def _layer(layer: DecoderLayer, angles: torch.Tensor) -> LayerStructure:
    block = layer.feed_forward
    assert isinstance(block, DenseFeedForward)
    return LayerStructure(
        input_norm=_pointer(layer.input_norm),
        inner_norm=_pointer(layer.inner_norm),
        query_norm=_pointer(layer.query_norm),
        key_norm=_pointer(layer.key_norm),
        query_key_value=_linear(layer.query_key_value),
        output=_linear(layer.output),
        gate_up=_linear(block.gate_up),
        down=_linear(block.down),
        angles=_pointer(angles),
        rotary_size=angles.shape[1],
        window=layer.rule.window or 0,
        scale=layer.rule.scale,
        soft_cap=layer.rule.soft_cap or 0.0,
    )


def _layout(layout: StepLayout) -> LayoutStructure:
    tables = layout.block_tables
    return LayoutStructure(slots=layout.slots.data_ptr(), block_tables=tables.data_ptr(), table_size=tables.shape[1])


def _linears(layer: DecoderLayer) -> tuple[Linear, ...]:
    block = layer.feed_forward
    assert isinstance(block, DenseFeedForward)
    return layer.query_key_value, layer.output, block.gate_up, block.down


def _linear(linear: Linear) -> LinearStructure:
    if isinstance(linear, CodedLinear):
        weights = linear.weights
        return LinearStructure(
            columns=weights.num_columns, inner=weights.num_inner, coded=ctypes.pointer(linear.structure)
        )
    assert isinstance(linear, NativeLinear)
    return LinearStructure(
        packed=_pointer(linear.packed),
        bias=_pointer(linear.bias),
        columns=linear.num_columns,
        inner=linear.num_inner,
    )


def _pointer(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.data_ptr()
