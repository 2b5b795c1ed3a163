"""The model families we run, one row each: what an architecture's name implies without any field saying so.

Defaults are those of Hugging Face's configuration classes: a checkpoint leaves out what equals them. Adding a family
is adding a row; what it computes differently is a field here, read by `model_config.py` into `DecoderConfig`.
"""

from dataclasses import dataclass
from enum import StrEnum


class WindowRule(StrEnum):
    """Which layers look through the sliding window when `layer_types` does not say."""

    NONE = "none"
    EVERY_LAYER = "every layer"
    FROM_MAX_WINDOW_LAYERS = "layers from max_window_layers on"
    PATTERN = "all but every n-th layer"
    WITHOUT_ROPE = "layers without rope"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertNames:
    """Where a family's checkpoints keep the experts of a layer: `block`.gate and `block`.experts.3.`up` ..."""

    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`attention_bias` and `attention_output_bias` None: the field `attention_bias` decides.

    `understands` are the fields of `model_config.FEATURE_FIELDS` that this family has; the others must be neutral.
    `window_switch`: `sliding_window` counts only where `use_sliding_window` is true. `default_pattern` n: every n-th
    layer is global. `default_attention_cap` and `default_final_cap` hold where the field is absent, not where it is
    null.
    """

    attention_bias: bool | None = False
    attention_output_bias: bool | None = False
    query_key_norm: bool = False
    understands: frozenset[str] = frozenset()
    window_rule: WindowRule = WindowRule.NONE
    window_switch: bool = False
    default_window: int | None = None
    default_pattern: int = 0
    default_rope_theta: float = 10_000.0
    has_two_ropes: bool = False
    """One for the global layers, one for the sliding ones."""
    may_stretch_rope: bool = True
    default_no_rope_interval: int | None = None
    default_tied: bool = False
    default_rms_norm_eps: float = 1e-6
    is_gemma: bool = False
    """Norms around every block, norm weights counted from one, scaled embeddings, gelu, a scale of its own."""
    default_attention_cap: float | None = None
    default_final_cap: float | None = None
    has_fused_projections: bool = False
    experts: ExpertNames | None = None
    has_dense_layers: bool = False
    """Some layers may have no experts, and experts have a width of their own (Qwen)."""


_MIXTRAL_NAMES = ExpertNames(block="block_sparse_moe", gate="w1", up="w3", down="w2")
_WINDOW = frozenset({"sliding_window", "layer_types"})
_GEMMA = _WINDOW | {"query_pre_attn_scalar", "final_logit_softcapping"}

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(attention_bias=None, attention_output_bias=None),
    "MistralForCausalLM": Family(understands=_WINDOW, window_rule=WindowRule.EVERY_LAYER, default_window=4096),
    "Qwen2ForCausalLM": Family(
        attention_bias=True,
        understands=_WINDOW,
        window_rule=WindowRule.FROM_MAX_WINDOW_LAYERS,
        window_switch=True,
        default_window=4096,
    ),
    "Qwen3ForCausalLM": Family(
        attention_bias=None,
        attention_output_bias=None,
        query_key_norm=True,
        understands=_WINDOW,
        window_rule=WindowRule.FROM_MAX_WINDOW_LAYERS,
        window_switch=True,
        default_window=4096,
    ),
    "Gemma2ForCausalLM": Family(
        attention_bias=None,
        attention_output_bias=None,
        understands=_GEMMA | {"attn_logit_softcapping"},
        window_rule=WindowRule.PATTERN,
        default_window=4096,
        default_pattern=2,
        default_tied=True,
        is_gemma=True,
        default_attention_cap=50.0,
        default_final_cap=30.0,
    ),
    "Gemma3ForCausalLM": Family(
        attention_bias=None,
        attention_output_bias=None,
        query_key_norm=True,
        understands=_GEMMA | {"sliding_window_pattern", "rope_local_base_freq"},
        window_rule=WindowRule.PATTERN,
        default_window=4096,
        default_pattern=6,
        default_rope_theta=1_000_000.0,
        has_two_ropes=True,
        default_tied=True,
        is_gemma=True,
    ),
    "SmolLM3ForCausalLM": Family(
        attention_bias=None,
        attention_output_bias=None,
        understands=_WINDOW | {"no_rope_layers", "no_rope_layer_interval"},
        window_rule=WindowRule.WITHOUT_ROPE,
        window_switch=True,
        default_rope_theta=2_000_000.0,
        default_no_rope_interval=4,
        default_tied=True,
    ),
    "Phi3ForCausalLM": Family(
        understands=_WINDOW | {"partial_rotary_factor"},
        window_rule=WindowRule.EVERY_LAYER,
        may_stretch_rope=False,
        default_rms_norm_eps=1e-5,
        has_fused_projections=True,
    ),
    "MixtralForCausalLM": Family(
        understands=_WINDOW | {"num_local_experts"},
        window_rule=WindowRule.EVERY_LAYER,
        default_rope_theta=1_000_000.0,
        default_rms_norm_eps=1e-5,
        experts=_MIXTRAL_NAMES,
    ),
    "Qwen3MoeForCausalLM": Family(
        attention_bias=None,
        attention_output_bias=None,
        query_key_norm=True,
        understands=_WINDOW | {"num_experts", "num_local_experts"},
        window_rule=WindowRule.EVERY_LAYER,
        window_switch=True,
        default_window=4096,
        experts=ExpertNames(),
        has_dense_layers=True,
    ),
}
