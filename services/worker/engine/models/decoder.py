"""The decoder: one implementation for every family, shaped by a checkpoint's configuration.

What differs between families is data: see `DecoderConfig`, and `layer_weights.py` for how it is stored. Knows no
requests, no scheduling and no sampling: tokens and their places in, hidden states out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.cell_layout import CellLayout
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.attention.low_precision_attention import LowPrecisionAttention
from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.attention.triton_cells import TritonCells
from services.worker.engine.checkpoints.model_config import Activation, DecoderConfig
from services.worker.engine.checkpoints.rope_scaling import Rope
from services.worker.engine.models.decoder_operators import DecoderOperators
from services.worker.engine.models.embedding import Embed, Embedding
from services.worker.engine.models.layer_weights import DecoderLayer, LayerReader
from services.worker.engine.models.linear import NativeLinear
from services.worker.engine.models.linear_reader import LinearReader, PlainLinears, ReadTensor
from services.worker.engine.models.native_decoder import NativeDecoder, why_not_native
from services.worker.engine.models.quantized_native import CodedLinear
from services.worker.engine.models.rope import rope_table
from services.worker.engine.native.quantized_library import load_quantized_kernels

_EMBEDDING = "model.embed_tokens.weight"
_WITH_TRITON = ("triton", "flash-attn-2", "flash-attn-3")
"""Backends of cards on which Triton's kernels run, too."""


class Decoder:
    """Layers, embedding and head, with the operators and the attention that were chosen for this machine."""

    def __init__(
        self,
        config: DecoderConfig,
        read: ReadTensor,
        *,
        attention: AttentionBackend,
        operators: DecoderOperators,
        linears: LinearReader | None = None,
    ) -> None:
        """`linears` None: matrices as `read` gives them."""
        linears = linears or PlainLinears(read)
        self.config = config
        self._attention = attention
        self._operators = operators
        embedding = read(_EMBEDDING)
        kernels = load_quantized_kernels() if attention.name == "native" else None
        has_triton = attention.name in _WITH_TRITON and embedding.device.type == "cuda"
        self._low_precision = LowPrecisionAttention(attention, kernels, TritonCells() if has_triton else None)
        # In the model's dtype, as it was trained: in bfloat16 that is not the exact square root.
        self._embedding_scale = torch.tensor(config.embedding_scale).to(embedding)
        gate = operators.gelu_multiply if config.activation is Activation.GELU else operators.silu_multiply
        reader = LayerReader(config, read, linears, gate)
        self._layers = [reader.read(index) for index in range(config.num_layers)]
        self._final_norm = reader.norm("model.norm")
        self._head = linears.head(_EMBEDDING if config.tie_word_embeddings else "lm_head.weight")
        self._embed: Embed = Embedding(embedding)
        if config.tie_word_embeddings and isinstance(self._head, NativeLinear):
            self._embed = self._head.weight_rows
        self._device = embedding.device
        self._rope_tables: dict[Rope | None, torch.Tensor] = {}
        self.not_native = why_not_native(config, self._layers, attention)
        self._native: NativeDecoder | None = None

    @property
    def is_capturable(self) -> bool:
        """A decode step chooses nothing by values on the device; experts read how many tokens each of them gets."""
        return self._attention.is_capturable and not any(layer.has_experts for layer in self.config.layers)

    def prepare_positions(self, num_positions: int) -> None:
        """Angles for positions below this: once, before the first `forward`. Layers with the same rope share them."""
        for rope in {layer.rope for layer in self.config.layers}:
            self._rope_tables[rope] = rope_table(rope, num_positions).to(self._device)
        if not self.not_native:
            self._native = NativeDecoder(self.config, self._layers, self._rope_tables)

    def forward(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], layouts: Sequence[StepLayout]
    ) -> torch.Tensor:
        """token_ids [T] int64 -> last layer's output before the norm, [T, hidden].

        `caches`: of every layer; `layouts`: of every group of layers, which differ in where blocks lie.
        """
        operators, epsilon = self._operators, self.config.rms_norm_eps
        residual = self._embed(token_ids)
        if self.config.embedding_scale != 1:
            residual.mul_(self._embedding_scale)
        if self._native is not None:
            return self._native.forward(residual, caches, layouts)
        update: torch.Tensor | None = None
        for layer, cache in zip(self._layers, caches, strict=True):
            if update is None:
                normed = operators.rms_norm(residual, layer.input_norm, epsilon)
            else:
                normed = operators.add_rms_norm(residual, update, layer.input_norm, epsilon)
            attended = layer.output(self._attend(layer, normed, cache, layouts[cache.group]))
            if layer.attention_post_norm is not None:
                attended = operators.rms_norm(attended, layer.attention_post_norm, epsilon)
            normed = operators.add_rms_norm(residual, attended, layer.inner_norm, epsilon)
            update = layer.feed_forward(normed)
            if layer.feed_forward_post_norm is not None:
                update = operators.rms_norm(update, layer.feed_forward_post_norm, epsilon)
        assert update is not None, "a decoder has layers"
        return residual.add_(update)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] from `forward` -> [rows, V] float32."""
        normed = self._operators.rms_norm(hidden, self._final_norm, self.config.rms_norm_eps)
        logits = self._head(normed)
        cap = self.config.final_cap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    @property
    def finds_largest(self) -> bool:
        """Whether `largest` has an answer."""
        return self._searching_head is not None

    @property
    def _searching_head(self) -> NativeLinear | CodedLinear | None:
        is_plain = self.config.final_cap is None
        return self._head if is_plain and isinstance(self._head, NativeLinear | CodedLinear) else None

    def largest(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """The token of each row's largest logit, -1 where one is not a number, [rows] int64; None: take `logits`.

        Of use where nothing else is asked of them: the logits are never in memory.
        """
        head = self._searching_head
        if head is None:
            return None
        return head.largest(self._operators.rms_norm(hidden, self._final_norm, self.config.rms_norm_eps))

    def _attend(self, layer: DecoderLayer, normed: torch.Tensor, cache: LayerCache, layout: StepLayout) -> torch.Tensor:
        projected = layer.query_key_value(normed)
        if layer.query_norm is not None and layer.key_norm is not None:
            projected = self._norm_heads(projected, layer.query_norm, layer.key_norm)
        if cache.cells is not None:
            return self._attend_cells(layer, projected, cache, cache.cells, layout)
        queries = self._operators.rotate_and_store(
            projected, self._rope_tables[layer.rope], cache.keys, cache.values, layout, self.config.num_query_heads
        )
        return self._attention.attend(queries, cache.keys, cache.values, layout, layer.rule)

    def _attend_cells(
        self, layer: DecoderLayer, projected: torch.Tensor, cache: LayerCache, cells: CellLayout, layout: StepLayout
    ) -> torch.Tensor:
        """Keys and values go through a page of their own, in 16 bits, before they become cells."""
        num_tokens = projected.shape[0]
        page = projected.new_empty(2, num_tokens, 1, self.config.num_kv_heads, self.config.head_size)
        own_slots = replace(layout, slots=torch.arange(num_tokens, device=projected.device))
        queries = self._operators.rotate_and_store(
            projected, self._rope_tables[layer.rope], page[0], page[1], own_slots, self.config.num_query_heads
        )
        keys = page[0, :, 0]
        if cache.frame is not None:
            keys, queries = cache.frame.keys(keys), cache.frame.queries(queries)
        self._low_precision.store(cells, cache, keys, page[1, :, 0], layout.slots)
        return self._low_precision.attend(queries, cells, cache, layout, layer.rule)

    def _norm_heads(self, projected: torch.Tensor, query_norm: torch.Tensor, key_norm: torch.Tensor) -> torch.Tensor:
        """RMS norm over every head of queries and keys (Qwen 3, Gemma 3)."""
        config, epsilon = self.config, self.config.rms_norm_eps
        heads = projected.view(projected.shape[0], -1, config.head_size)
        num_rotated = config.num_query_heads + config.num_kv_heads
        queries = heads[:, : config.num_query_heads].reshape(-1, config.head_size)
        keys = heads[:, config.num_query_heads : num_rotated].reshape(-1, config.head_size)
        return torch.cat(
            [
                self._operators.rms_norm(queries, query_norm, epsilon).view(projected.shape[0], -1),
                self._operators.rms_norm(keys, key_norm, epsilon).view(projected.shape[0], -1),
                heads[:, num_rotated:].flatten(1),
            ],
            dim=1,
        )
