"""One layer's weights, read from a checkpoint under their Hugging Face names and laid out for this machine.

How families store the same thing differently ends here: fused or separate projections, norm weights counted from
one, names of experts. The decoder sees one kind of layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.checkpoints.layer_config import ExpertsConfig
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.checkpoints.rope_scaling import Rope
from services.worker.engine.models.feed_forward import DenseFeedForward, ExpertsFeedForward, FeedForward, Gate
from services.worker.engine.models.linear import Linear, make_linear
from services.worker.engine.models.linear_reader import LinearReader, ReadTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    """What is None is not there: norms over heads (Qwen 3), norms before the residual (Gemma)."""

    rule: AttentionRule
    rope: Rope | None
    input_norm: torch.Tensor
    query_key_value: Linear
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Linear
    attention_post_norm: torch.Tensor | None
    inner_norm: torch.Tensor
    feed_forward: FeedForward
    feed_forward_post_norm: torch.Tensor | None


class LayerReader:
    def __init__(self, config: DecoderConfig, read: ReadTensor, linears: LinearReader, gate: Gate) -> None:
        self._config = config
        self._read = read
        self._linears = linears
        self._gate = gate

    def read(self, index: int) -> DecoderLayer:
        config, layer = self._config, self._config.layers[index]
        prefix = f"model.layers.{index}."
        has_post_norms, has_head_norms = config.post_norms, config.query_key_norm
        inner = "pre_feedforward_layernorm" if has_post_norms else "post_attention_layernorm"
        return DecoderLayer(
            rule=AttentionRule(
                scale=config.attention_scale, window=layer.sliding_window, soft_cap=config.attention_cap
            ),
            rope=layer.rope,
            input_norm=self.norm(f"{prefix}input_layernorm"),
            query_key_value=self._projections(f"{prefix}self_attn."),
            query_norm=self.norm(f"{prefix}self_attn.q_norm") if has_head_norms else None,
            key_norm=self.norm(f"{prefix}self_attn.k_norm") if has_head_norms else None,
            output=self._linear(prefix, "self_attn.o_proj", has_bias=config.attention_output_bias),
            attention_post_norm=self.norm(f"{prefix}post_attention_layernorm") if has_post_norms else None,
            inner_norm=self.norm(f"{prefix}{inner}"),
            feed_forward=(
                self._experts(prefix, config.experts)
                if layer.has_experts and config.experts is not None
                else self._dense(f"{prefix}mlp.")
            ),
            feed_forward_post_norm=self.norm(f"{prefix}post_feedforward_layernorm") if has_post_norms else None,
        )

    def norm(self, name: str) -> torch.Tensor:
        """Counted from one it stays float32: 1 + w has no place in bfloat16.

        A copy: a view, small as it is, would keep the whole checkpoint mapped beside the packed weights.
        """
        weight = self._read(f"{name}.weight")
        return weight.float() + 1 if self._config.norm_weights_from_one else weight.clone()

    def _projections(self, prefix: str) -> Linear:
        names = ("qkv_proj",) if self._config.fused_projections else ("q_proj", "k_proj", "v_proj")
        return self._linear(prefix, *names, has_bias=self._config.attention_bias)

    def _dense(self, prefix: str) -> FeedForward:
        names = ("gate_up_proj",) if self._config.fused_projections else ("gate_proj", "up_proj")
        has_bias = self._config.mlp_bias
        gate_up = self._linear(prefix, *names, has_bias=has_bias)
        return DenseFeedForward(gate_up, self._linear(prefix, "down_proj", has_bias=has_bias), self._gate)

    def _experts(self, prefix: str, config: ExpertsConfig) -> FeedForward:
        names = config.names
        block = f"{prefix}{names.block}."
        experts: list[FeedForward] = []
        for expert in range(config.num_experts):
            own = f"{block}experts.{expert}."
            gate_up = self._linear(own, names.gate, names.up, has_bias=False)
            experts.append(DenseFeedForward(gate_up, self._linear(own, names.down, has_bias=False), self._gate))
        router = make_linear(self._read(f"{block}gate.weight"), None)
        return ExpertsFeedForward(router, experts, config)

    def _linear(self, prefix: str, *names: str, has_bias: bool) -> Linear:
        """Several projections of the same input are one matrix."""
        bias = torch.cat([self._read(f"{prefix}{name}.bias") for name in names]) if has_bias else None
        return self._linears.layer([f"{prefix}{name}.weight" for name in names], bias)
