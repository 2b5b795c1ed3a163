"""What differs from layer to layer: how far it sees, how it turns positions, whether it has experts.

Read from the two spellings that Hugging Face has used: `layer_types`, or a rule with its fields. A list that says
something else than the architecture computes is refused.
"""

from dataclasses import dataclass

from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.model_families import ExpertNames, Family, WindowRule
from services.worker.engine.checkpoints.rope_scaling import LAYER_TYPES, Rope, RopeContext, read_rope, read_two_ropes

_LOCAL_THETA = 10_000.0
_MOST_EXPERTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """`sliding_window`: tokens that a token sees, itself included; None is all. `rope` None: positions do not turn."""

    sliding_window: int | None
    rope: Rope | None
    has_experts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """`num_chosen` of `num_experts` compute a token; their shares are made to sum to one if `normalise_shares`."""

    num_experts: int
    num_chosen: int
    intermediate_size: int
    normalise_shares: bool
    names: ExpertNames


def read_layers(
    fields: ConfigFields, family: Family, *, num_layers: int, head_size: int, max_position_embeddings: int
) -> tuple[LayerConfig, ...]:
    turns = _read_turns(fields, family, num_layers)
    slides, window = _read_windows(fields, family, turns, max_position_embeddings)
    context = RopeContext(
        head_size=head_size,
        max_position_embeddings=max_position_embeddings,
        default_theta=family.default_rope_theta,
        may_be_partial="partial_rotary_factor" in family.understands,
        may_stretch=family.may_stretch_rope,
        original_max_position_embeddings=fields.optional_integer("original_max_position_embeddings"),
    )
    if family.has_two_ropes:
        whole, local = read_two_ropes(fields, context, default_local_theta=_LOCAL_THETA)
    else:
        whole = local = read_rope(fields, context)
    dense = _read_dense_layers(fields, family, num_layers)
    return tuple(
        LayerConfig(
            sliding_window=window if slides[index] else None,
            rope=(local if slides[index] else whole) if turns[index] else None,
            has_experts=index not in dense,
        )
        for index in range(num_layers)
    )


def read_experts(fields: ConfigFields, family: Family) -> ExpertsConfig | None:
    if family.experts is None:
        return None
    spelling = "num_experts" if fields.raw.get("num_experts") is not None else "num_local_experts"
    num_experts = fields.positive_integer(spelling)
    if num_experts > _MOST_EXPERTS:
        raise fields.error(spelling, f"{num_experts} is more than {_MOST_EXPERTS}")
    num_chosen = fields.positive_integer("num_experts_per_tok")
    if num_chosen > num_experts:
        raise fields.error("num_experts_per_tok", f"{num_chosen} of {num_experts} experts")
    width = "moe_intermediate_size" if family.has_dense_layers else "intermediate_size"
    return ExpertsConfig(
        num_experts=num_experts,
        num_chosen=num_chosen,
        intermediate_size=fields.positive_integer(width),
        normalise_shares=fields.boolean("norm_topk_prob", default=False) if family.has_dense_layers else True,
        names=family.experts,
    )


def _read_turns(fields: ConfigFields, family: Family, num_layers: int) -> tuple[bool, ...]:
    """Which layers have rope."""
    if family.default_no_rope_interval is None:
        return (True,) * num_layers
    listed = fields.switches("no_rope_layers", num_layers)
    if listed is not None:
        return listed
    interval = fields.positive_integer("no_rope_layer_interval", default=family.default_no_rope_interval)
    return tuple((index + 1) % interval != 0 for index in range(num_layers))


def _read_windows(
    fields: ConfigFields, family: Family, turns: tuple[bool, ...], max_position_embeddings: int
) -> tuple[tuple[bool, ...], int | None]:
    """Which layers slide, and how far they see."""
    window = _read_window(fields, family, max_position_embeddings)
    implied = _implied_slides(fields, family, turns) if window is not None else (False,) * len(turns)
    listed = _read_layer_types(fields, len(turns))
    if listed is None:
        return implied, window
    if window is None and any(listed):
        raise fields.error("layer_types", "has sliding_attention, but there is no sliding_window")
    if family.window_rule in (WindowRule.NONE, WindowRule.EVERY_LAYER) and listed != implied:
        raise fields.error("layer_types", "is not what this architecture computes")
    return listed, window


def _read_window(fields: ConfigFields, family: Family, max_position_embeddings: int) -> int | None:
    if family.window_switch and not fields.boolean("use_sliding_window", default=False):
        return None
    window = fields.optional_integer("sliding_window", absent=family.default_window)
    if family.window_rule is WindowRule.PATTERN and window is None:
        raise fields.error("sliding_window", "is missing")
    if family.window_rule is not WindowRule.NONE:
        return window
    # A window that no position can leave changes nothing.
    if window is not None and window < max_position_embeddings:
        raise fields.error("sliding_window", f"{window} is not supported for this architecture")
    return None


def _implied_slides(fields: ConfigFields, family: Family, turns: tuple[bool, ...]) -> tuple[bool, ...]:
    indices = range(len(turns))
    match family.window_rule:
        case WindowRule.NONE:
            return tuple(False for _ in indices)
        case WindowRule.EVERY_LAYER:
            return tuple(True for _ in indices)
        case WindowRule.WITHOUT_ROPE:
            return tuple(not turned for turned in turns)
        case WindowRule.PATTERN:
            pattern = fields.positive_integer("sliding_window_pattern", default=family.default_pattern)
            return tuple((index + 1) % pattern != 0 for index in indices)
        case WindowRule.FROM_MAX_WINDOW_LAYERS:
            first = fields.natural("max_window_layers", default=28)
            return tuple(index >= first for index in indices)


def _read_layer_types(fields: ConfigFields, num_layers: int) -> tuple[bool, ...] | None:
    kinds = fields.raw.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in LAYER_TYPES for kind in kinds):
        raise fields.error("layer_types", f"must be a list of {num_layers} of {', '.join(LAYER_TYPES)}")
    return tuple(kind == "sliding_attention" for kind in kinds)


def _read_dense_layers(fields: ConfigFields, family: Family, num_layers: int) -> frozenset[int]:
    """Layers without experts: all of them in most families."""
    if family.experts is None:
        return frozenset(range(num_layers))
    if not family.has_dense_layers:
        return frozenset()
    step = fields.positive_integer("decoder_sparse_step", default=1)
    listed = fields.raw.get("mlp_only_layers") or []
    if not isinstance(listed, list) or any(isinstance(one, bool) or not isinstance(one, int) for one in listed):
        raise fields.error("mlp_only_layers", f"must be a list of layers, not {listed!r}")
    return frozenset(index for index in range(num_layers) if index in listed or (index + 1) % step)
