"""Where a decoder layer's linear weights take their input from, and what stands before it. Names only, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.worker.engine.checkpoints.model_config import DecoderConfig


class Site(StrEnum):
    """A place in a layer whose activations one or several linear weights multiply."""

    ATTENTION_INPUT = "attention input"
    ATTENTION_OUTPUT = "attention output"
    FEED_FORWARD_INPUT = "feed-forward input"
    FEED_FORWARD_OUTPUT = "feed-forward output"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteShape:
    """`linears` share the input. `norm` is the RMS norm that makes it, or `producer` the linear whose rows do.

    Names are relative to the layer. Without either a scale of the input has no place to go.
    """

    linears: tuple[str, ...]
    norm: str | None = None
    producer: str | None = None


def site_shapes(config: DecoderConfig) -> dict[Site, SiteShape]:
    """Of a dense layer, in the order in which activations pass them."""
    is_fused = config.fused_projections
    inner_norm = "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm"
    projections = ("qkv_proj",) if is_fused else ("q_proj", "k_proj", "v_proj")
    gates = ("gate_up_proj",) if is_fused else ("gate_proj", "up_proj")
    return {
        Site.ATTENTION_INPUT: SiteShape(
            linears=tuple(f"self_attn.{name}" for name in projections), norm="input_layernorm"
        ),
        Site.ATTENTION_OUTPUT: SiteShape(
            linears=("self_attn.o_proj",), producer=None if is_fused else "self_attn.v_proj"
        ),
        Site.FEED_FORWARD_INPUT: SiteShape(linears=tuple(f"mlp.{name}" for name in gates), norm=inner_norm),
        Site.FEED_FORWARD_OUTPUT: SiteShape(linears=("mlp.down_proj",), producer=None if is_fused else "mlp.up_proj"),
    }


def linear_names(config: DecoderConfig) -> tuple[str, ...]:
    return tuple(name for shape in site_shapes(config).values() for name in shape.linears)
