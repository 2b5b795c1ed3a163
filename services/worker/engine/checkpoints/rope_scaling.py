"""How a checkpoint stretches rotary positions: the parameters only; the angles are the decoder's.

Sources: linear, Chen et al. 2023 (position interpolation); yarn, Peng et al. 2023; llama3, the Llama 3.1 release.
"""

from dataclasses import dataclass
from enum import StrEnum

from services.worker.engine.checkpoints.config_fields import ConfigFields


class RopeKind(StrEnum):
    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Fields that a kind does not use keep their defaults.

    `low_frequency_factor` and `high_frequency_factor` are llama3's. `beta_fast`, `beta_slow`, `attention_factor`,
    `mscale`, `mscale_all_dim` and `truncate` are yarn's; `attention_factor` None means derive it from the others.
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


def read_rope(fields: ConfigFields, max_position_embeddings: int) -> tuple[float, RopeScaling | None]:
    """Theta and scaling from either spelling; `rope_parameters`, the newer, wins."""
    parameters = fields.section("rope_parameters")
    if parameters is not None:
        theta = parameters if parameters.raw.get("rope_theta") is not None else fields
        return theta.positive_number("rope_theta", default=10_000.0), _read_scaling(parameters, max_position_embeddings)
    theta_value = fields.positive_number("rope_theta", default=10_000.0)
    scaling = fields.section("rope_scaling")
    return theta_value, None if scaling is None else _read_scaling(scaling, max_position_embeddings)


def _read_scaling(section: ConfigFields, max_position_embeddings: int) -> RopeScaling | None:
    spelling = "rope_type" if section.raw.get("rope_type") is not None else "type"
    name = section.raw.get(spelling, "default")
    if name == "default":
        return None
    if name not in tuple(RopeKind):
        raise section.error(spelling, f"{name!r} is not supported; one of default, {', '.join(RopeKind)}")
    kind = RopeKind(name)
    if section.raw.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise section.error("partial_rotary_factor", "is not supported")
    if kind is RopeKind.LINEAR:
        return RopeScaling(
            kind=kind,
            factor=section.positive_number("factor"),
            original_max_position_embeddings=max_position_embeddings,
        )
    return _read_llama3(section) if kind is RopeKind.LLAMA3 else _read_yarn(section, max_position_embeddings)


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
        attention_factor=_optional_number(section, "attention_factor"),
        mscale=_optional_number(section, "mscale"),
        mscale_all_dim=_optional_number(section, "mscale_all_dim"),
        truncate=section.boolean("truncate", default=True),
    )


def _optional_number(section: ConfigFields, field: str) -> float | None:
    return None if section.raw.get(field) is None else section.positive_number(field)
