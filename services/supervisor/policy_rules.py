"""What the supervisor's policies are told: plain values, from the settings. Decides nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.supervisor.autoscaling import Bounds, ScalingRules, parse_bounds
from services.supervisor.outliers import OutlierRules
from services.supervisor.quarantine import QuarantineRules
from services.supervisor.settings import SupervisorSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRules:
    """`bounds`: the pools to scale. `least_silence_seconds`: nobody is suspected before, however steady it was."""

    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    scaling: ScalingRules = field(default_factory=ScalingRules)
    outliers: OutlierRules = field(default_factory=OutlierRules)
    quarantine: QuarantineRules = field(default_factory=QuarantineRules)
    is_quarantine_automatic: bool = True
    phi_to_suspect: float = 12.0
    least_silence_seconds: float = 2.0


def policy_rules(settings: SupervisorSettings) -> PolicyRules:
    """Raises `InvalidBounds`."""
    return PolicyRules(
        bounds=parse_bounds(settings.scaling),
        scaling=ScalingRules(
            drain_seconds=settings.scaling_drain_seconds,
            target_utilisation=settings.scaling_target_utilisation,
            cooldown_seconds=settings.scaling_cooldown_seconds,
            down_after_seconds=settings.scaling_down_after_seconds,
            idle_seconds=settings.scaling_idle_seconds,
        ),
        outliers=OutlierRules(slow_factor=settings.slow_factor, most_ejected_share=settings.most_ejected_share),
        quarantine=QuarantineRules(first_seconds=settings.quarantine_seconds),
        is_quarantine_automatic=settings.quarantine,
        phi_to_suspect=settings.phi_to_suspect,
    )
