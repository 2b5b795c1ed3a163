"""One dense decoder layer in plain torch, over whole sequences: what calibration measures activations with.

The engine's decoder does the same with other shapes and is what counts; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from services.worker.engine.calibration.layer_shape import Site
from services.worker.engine.checkpoints.layer_config import LayerConfig
from services.worker.engine.checkpoints.model_config import Activation, DecoderConfig
from services.worker.engine.models.linear import make_linear
from services.worker.engine.models.rope import rope_table

Weights = Mapping[str, torch.Tensor]
"""A layer's tensors under their names without `model.layers.N.`."""

Observe = Callable[[Site, torch.Tensor], None]
"""Called with the input of a site's linears, [sequences * length, columns]."""


class ReferenceLayer:
    def __init__(self, config: DecoderConfig, layer: LayerConfig, weights: Weights, *, dtype: torch.dtype) -> None:
        """`dtype` is that of the matrix products; the residual stays float32."""
        self._config = config
        self._layer = layer
        self._weights = weights
        self._dtype = dtype

    def forward(self, hidden: torch.Tensor, observe: Observe | None = None) -> torch.Tensor:
        """hidden [sequences, length, hidden] float32 -> the same after this layer."""
        config, see = self._config, observe or _ignore
        attended = self._attention(self._norm(hidden, "input_layernorm"), see)
        if config.post_norms:
            attended = self._norm(attended, "post_attention_layernorm")
        hidden = hidden + attended
        inner_norm = "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm"
        update = self._feed_forward(self._norm(hidden, inner_norm), see)
        if config.post_norms:
            update = self._norm(update, "post_feedforward_layernorm")
        return hidden + update

    def _attention(self, normed: torch.Tensor, observe: Observe) -> torch.Tensor:
        config = self._config
        observe(Site.ATTENTION_INPUT, normed.flatten(0, 1))
        sequences, length, _ = normed.shape
        if config.fused_projections:
            projected = self._linear("self_attn.qkv_proj", normed)
        else:
            names = ("q_proj", "k_proj", "v_proj")
            projected = torch.cat([self._linear(f"self_attn.{name}", normed) for name in names], dim=-1)
        heads = projected.view(sequences, length, -1, config.head_size).transpose(1, 2)  # [S, H + 2K, length, D]
        num_kv = config.num_kv_heads
        queries, keys, values = torch.split(heads, [config.num_query_heads, num_kv, num_kv], dim=1)
        if config.query_key_norm:
            queries = self._norm(queries, "self_attn.q_norm")
            keys = self._norm(keys, "self_attn.k_norm")
        table = rope_table(self._layer.rope, length)
        mixed = self._mix(_rotated(queries, table), _rotated(keys, table), values)
        mixed = mixed.transpose(1, 2).flatten(2)
        observe(Site.ATTENTION_OUTPUT, mixed.flatten(0, 1))
        return self._linear("self_attn.o_proj", mixed)

    def _mix(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        config, length = self._config, queries.shape[2]
        repeats = config.num_query_heads // config.num_kv_heads
        keys, values = keys.repeat_interleave(repeats, dim=1), values.repeat_interleave(repeats, dim=1)
        distance = torch.arange(length)[:, None] - torch.arange(length)
        window = self._layer.sliding_window
        allowed = (distance >= 0) & (distance < (window or length))
        if config.attention_cap is None:
            return functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=allowed, scale=config.attention_scale
            )
        scores = queries @ keys.transpose(2, 3) * config.attention_scale
        scores = config.attention_cap * torch.tanh(scores / config.attention_cap)
        return scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1) @ values

    def _feed_forward(self, normed: torch.Tensor, observe: Observe) -> torch.Tensor:
        observe(Site.FEED_FORWARD_INPUT, normed.flatten(0, 1))
        if self._config.fused_projections:
            gate, up = self._linear("mlp.gate_up_proj", normed).chunk(2, dim=-1)
        else:
            gate, up = self._linear("mlp.gate_proj", normed), self._linear("mlp.up_proj", normed)
        is_gelu = self._config.activation is Activation.GELU
        inner = (functional.gelu(gate, approximate="tanh") if is_gelu else functional.silu(gate)) * up
        observe(Site.FEED_FORWARD_OUTPUT, inner.flatten(0, 1))
        return self._linear("mlp.down_proj", inner)

    def _linear(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        """Float32 in and out; the product in the layer's dtype."""
        weight = self._weights[f"{name}.weight"].to(self._dtype)
        bias = self._weights.get(f"{name}.bias")
        product = make_linear(weight, None)(inputs.to(self._dtype).flatten(0, -2)).float()
        product = product.view(*inputs.shape[:-1], -1)
        return product if bias is None else product + bias.float()

    def _norm(self, values: torch.Tensor, name: str) -> torch.Tensor:
        """Over the last dimension."""
        weight = norm_factors(self._weights[f"{name}.weight"], self._config)
        return values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + self._config.rms_norm_eps) * weight


def norm_factors(stored: torch.Tensor, config: DecoderConfig) -> torch.Tensor:
    """What a stored norm weight multiplies with, float32."""
    return stored.float() + 1 if config.norm_weights_from_one else stored.float()


def _rotated(heads: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """heads [S, heads, length, D]; the first R dimensions turn."""
    cosines, sines = table.chunk(2, dim=-1)
    first, second = heads[..., : table.shape[1]].chunk(2, dim=-1)
    passing = heads[..., table.shape[1] :]
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines, passing], dim=-1)


def _ignore(site: Site, inputs: torch.Tensor) -> None:
    """Nobody asked."""
