"""The decoder: one implementation of the Llama family, shaped by a checkpoint's configuration.

What differs between families is data: biases, norms over heads, tied embeddings, rope stretching (see
`DecoderConfig`). Knows no requests, no scheduling and no sampling: tokens and their places in, hidden states out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.models.decoder_operators import DecoderOperators
from services.worker.engine.models.linear import Linear, make_linear
from services.worker.engine.models.rope import rope_table

ReadTensor = Callable[[str], torch.Tensor]
"""A checkpoint's tensor by its Hugging Face name, in the model's dtype and on its device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    input_norm: torch.Tensor
    query_key_value: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Linear
    inner_norm: torch.Tensor
    gate_up: Linear
    down: Linear


class Decoder:
    """Layers, embedding and head, with the operators and the attention that were chosen for this machine."""

    def __init__(
        self,
        config: DecoderConfig,
        read: ReadTensor,
        *,
        attention: AttentionBackend,
        operators: DecoderOperators,
        max_positions: int,
    ) -> None:
        self.config = config
        self._attention = attention
        self._operators = operators
        self._scale = config.head_size**-0.5
        self._embedding = read("model.embed_tokens.weight")
        self._layers = [_read_layer(config, read, index) for index in range(config.num_layers)]
        self._final_norm = read("model.norm.weight")
        head = self._embedding if config.tie_word_embeddings else read("lm_head.weight")
        self._head = make_linear(head, None)
        self._rope_table = rope_table(config, max_positions).to(self._embedding.device)

    def forward(self, token_ids: torch.Tensor, cache: torch.Tensor, layout: StepLayout) -> torch.Tensor:
        """token_ids [T] int64; cache [layers, 2, N, P, K, D] -> last layer's output before the norm, [T, hidden]."""
        operators, epsilon = self._operators, self.config.rms_norm_eps
        residual = functional.embedding(token_ids, self._embedding)
        update: torch.Tensor | None = None
        for layer, (keys, values) in zip(self._layers, _per_layer(cache), strict=True):
            if update is None:
                normed = operators.rms_norm(residual, layer.input_norm, epsilon)
            else:
                normed = operators.add_rms_norm(residual, update, layer.input_norm, epsilon)
            attended = self._attend(layer, normed, keys, values, layout)
            normed = operators.add_rms_norm(residual, layer.output(attended), layer.inner_norm, epsilon)
            update = layer.down(operators.silu_multiply(layer.gate_up(normed)))
        assert update is not None, "a decoder has layers"
        return residual.add_(update)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] from `forward` -> [rows, V] float32."""
        normed = self._operators.rms_norm(hidden, self._final_norm, self.config.rms_norm_eps)
        return self._head(normed).float()

    def _attend(
        self,
        layer: DecoderLayer,
        normed: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
    ) -> torch.Tensor:
        projected = layer.query_key_value(normed)
        if layer.query_norm is not None and layer.key_norm is not None:
            projected = self._norm_heads(projected, layer.query_norm, layer.key_norm)
        queries = self._operators.rotate_and_store(
            projected, self._rope_table, keys, values, layout, self.config.num_query_heads
        )
        return self._attention.attend(queries, keys, values, layout, self._scale)

    def _norm_heads(self, projected: torch.Tensor, query_norm: torch.Tensor, key_norm: torch.Tensor) -> torch.Tensor:
        """RMS norm over every head of queries and keys (Qwen3)."""
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


def _per_layer(cache: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(pair[0], pair[1]) for pair in cache.unbind(0)]


def _read_layer(config: DecoderConfig, read: ReadTensor, index: int) -> DecoderLayer:
    prefix = f"model.layers.{index}."

    def linear(names: tuple[str, ...], *, has_bias: bool) -> Linear:
        weight = torch.cat([read(f"{prefix}{name}.weight") for name in names])
        bias = torch.cat([read(f"{prefix}{name}.bias") for name in names]) if has_bias else None
        return make_linear(weight, bias)

    attention = f"{prefix}self_attn."
    has_head_norms = config.query_key_norm
    return DecoderLayer(
        input_norm=read(f"{prefix}input_layernorm.weight"),
        query_key_value=linear(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), has_bias=config.attention_bias
        ),
        query_norm=read(f"{attention}q_norm.weight") if has_head_norms else None,
        key_norm=read(f"{attention}k_norm.weight") if has_head_norms else None,
        output=linear(("self_attn.o_proj",), has_bias=config.attention_output_bias),
        inner_norm=read(f"{prefix}post_attention_layernorm.weight"),
        gate_up=linear(("mlp.gate_proj", "mlp.up_proj"), has_bias=config.mlp_bias),
        down=linear(("mlp.down_proj",), has_bias=config.mlp_bias),
    )
