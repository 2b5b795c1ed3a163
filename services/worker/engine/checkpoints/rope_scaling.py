"""How a checkpoint turns positions: theta, share of a head, stretching. The parameters only; angles are the decoder's.

Sources: linear, Chen et al. 2023 (position interpolation); yarn, Peng et al. 2023; llama3, the Llama 3.1 release;
longrope, Ding et al. 2024; dynamic, as transformers computes it.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from services.worker.engine.checkpoints.config_fields import ConfigFields


class RopeKind(StrEnum):
    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"
    DYNAMIC = "dynamic"
    LONGROPE = "longrope"

    @property
    def follows_length(self) -> bool:
        """Beyond the original length the angles of every position would depend on how long the sequence is now."""
        return self in (RopeKind.DYNAMIC, RopeKind.LONGROPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Fields that a kind does not use keep their defaults.

    `low_frequency_factor` and `high_frequency_factor` are llama3's. `beta_fast`, `beta_slow`, `attention_factor`,
    `mscale`, `mscale_all_dim` and `truncate` are yarn's; `attention_factor` None means derive it from the others.
    `short_factors` are longrope's, one for each pair of dimensions; its `attention_factor` is resolved.
    """

    kind: RopeKind
    factor: float
    original_max_position_embeddings: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """The first `rotary_size` dimensions of a head turn, the others pass."""

    theta: float
    rotary_size: int
    scaling: RopeScaling | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeContext:
    """What the surroundings of a rope section say: the model's sizes and the family's habits."""

    head_size: int
    max_position_embeddings: int
    default_theta: float = 10_000.0
    may_be_partial: bool = False
    may_stretch: bool = True
    original_max_position_embeddings: int | None = None
    """Beside the section, where Phi-3 has it."""


LAYER_TYPES = ("full_attention", "sliding_attention")


def read_rope(fields: ConfigFields, context: RopeContext) -> Rope:
    """One rope for all layers, from either spelling; `rope_parameters`, the newer, wins."""
    parameters = fields.section("rope_parameters")
    section = parameters if parameters is not None else fields.section("rope_scaling")
    if section is not None:
        for name in LAYER_TYPES:
            if section.raw.get(name) is not None:
                raise section.error(name, "ropes that differ by layer type are not supported for this architecture")
    own_theta = parameters is not None and parameters.raw.get("rope_theta") is not None
    theta = (parameters if parameters is not None and own_theta else fields).positive_number(
        "rope_theta", default=context.default_theta
    )
    return _agreeing(fields, _read(fields, section, theta, context), context)


def read_two_ropes(fields: ConfigFields, context: RopeContext, *, default_local_theta: float) -> tuple[Rope, Rope]:
    """The rope of the global layers and that of the sliding ones (Gemma 3), from either spelling."""
    theta = fields.positive_number("rope_theta", default=context.default_theta)
    local_theta = fields.positive_number("rope_local_base_freq", default=default_local_theta)
    parameters = fields.section("rope_parameters")
    if parameters is None:
        whole = _read(fields, fields.section("rope_scaling"), theta, context)
        return whole, _read(fields, None, local_theta, context)
    if not any(name in parameters.raw for name in LAYER_TYPES):
        raise fields.error("rope_parameters", f"must have {' and '.join(LAYER_TYPES)}")
    ropes = []
    for name, default in zip(LAYER_TYPES, (theta, local_theta), strict=True):
        section = parameters.section(name)
        own_theta = default if section is None else section.positive_number("rope_theta", default=default)
        ropes.append(_read(fields, section, own_theta, context))
    return _agreeing(fields, ropes[0], context), ropes[1]


def _agreeing(fields: ConfigFields, rope: Rope, context: RopeContext) -> Rope:
    """A file may have both spellings, if they say the same."""
    older = fields.section("rope_scaling")
    if older is not None and _read_scaling(older, rope.theta, context) != rope.scaling:
        raise fields.error("rope_scaling", "contradicts rope_parameters")
    return rope


def _read(fields: ConfigFields, section: ConfigFields | None, theta: float, context: RopeContext) -> Rope:
    scaling = None if section is None else _read_scaling(section, theta, context)
    outside = fields.raw.get("original_max_position_embeddings")
    counts = scaling is not None and scaling.kind not in (RopeKind.LINEAR, RopeKind.DYNAMIC)
    if scaling is not None and counts and outside not in (None, scaling.original_max_position_embeddings):
        raise fields.error("original_max_position_embeddings", f"{outside!r} contradicts the rope's own")
    rotary_size = _read_rotary_size(fields, section, context)
    num_factors = 0 if scaling is None else len(scaling.short_factors)
    if section is not None and num_factors not in (0, rotary_size // 2):
        raise section.error("short_factor", f"must have {rotary_size // 2} factors, not {num_factors}")
    return Rope(theta=theta, rotary_size=rotary_size, scaling=scaling)


def _read_rotary_size(fields: ConfigFields, section: ConfigFields | None, context: RopeContext) -> int:
    is_inside = section is not None and section.raw.get("partial_rotary_factor") is not None
    place = section if section is not None and is_inside else fields
    share = place.positive_number("partial_rotary_factor", default=1.0)
    size = int(context.head_size * share)
    if share != 1 and not context.may_be_partial:
        raise place.error("partial_rotary_factor", f"{share} is not supported for this architecture")
    if size % 2 or not 0 < size <= context.head_size:
        raise place.error("partial_rotary_factor", f"{share} of {context.head_size} is not an even part of a head")
    return size


def _read_scaling(section: ConfigFields, theta: float, context: RopeContext) -> RopeScaling | None:
    spelling = "rope_type" if section.raw.get("rope_type") is not None else "type"
    name = section.raw.get(spelling, "default")
    if name == "default":
        return None
    known = tuple(RopeKind) if context.may_stretch else (RopeKind.LONGROPE,)
    if name not in known:
        raise section.error(spelling, f"{name!r} is not supported; one of {', '.join(('default', *known))}")
    kind = RopeKind(name)
    if kind is RopeKind.LONGROPE:
        return _read_longrope(section, context)
    if kind in (RopeKind.LINEAR, RopeKind.DYNAMIC):
        return RopeScaling(
            kind=kind,
            factor=section.positive_number("factor"),
            original_max_position_embeddings=context.max_position_embeddings,
        )
    if kind is RopeKind.LLAMA3:
        return _read_llama3(section)
    if theta <= 1:
        raise section.error("rope_theta", f"{theta} must be above 1 for yarn")
    return _read_yarn(section, context.max_position_embeddings)


def _read_llama3(section: ConfigFields) -> RopeScaling:
    low = section.positive_number("low_freq_factor")
    high = section.positive_number("high_freq_factor")
    if high <= low:
        raise section.error("high_freq_factor", f"{high} must be above low_freq_factor {low}")
    return RopeScaling(
        kind=RopeKind.LLAMA3,
        factor=section.positive_number("factor"),
        original_max_position_embeddings=section.positive_integer("original_max_position_embeddings"),
        low_frequency_factor=low,
        high_frequency_factor=high,
    )


def _read_yarn(section: ConfigFields, max_position_embeddings: int) -> RopeScaling:
    return RopeScaling(
        kind=RopeKind.YARN,
        factor=section.positive_number("factor"),
        original_max_position_embeddings=section.positive_integer(
            "original_max_position_embeddings", default=max_position_embeddings
        ),
        beta_fast=section.positive_number("beta_fast", default=32.0),
        beta_slow=section.positive_number("beta_slow", default=1.0),
        attention_factor=section.optional_number("attention_factor"),
        mscale=section.optional_number("mscale"),
        mscale_all_dim=section.optional_number("mscale_all_dim"),
        truncate=section.boolean("truncate", default=True),
    )


def _read_longrope(section: ConfigFields, context: RopeContext) -> RopeScaling:
    """`long_factor` is not read: it counts beyond the original length only, and there we do not go."""
    limit = context.max_position_embeddings
    original = section.positive_integer(
        "original_max_position_embeddings", default=context.original_max_position_embeddings
    )
    if not 1 < original <= limit:
        problem = f"{original} must be above 1 and at most max_position_embeddings, {limit}"
        raise section.error("original_max_position_embeddings", problem)
    factor = section.positive_number("factor", default=limit / original)
    magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return RopeScaling(
        kind=RopeKind.LONGROPE,
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=section.positive_number("attention_factor", default=magnitude),
        short_factors=section.positive_numbers("short_factor"),
    )
