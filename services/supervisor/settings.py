"""What an operator can set about a supervisor: `PENSTOCK_SUPERVISOR_*`. Values and their limits only."""

from pydantic import Field

from shared.settings.service_settings import ScopedSettings, scoped


class SupervisorSettings(ScopedSettings):
    """`PENSTOCK_SUPERVISOR_*`."""

    model_config = scoped("SUPERVISOR")

    host: str = Field(default="0.0.0.0", description="Address to listen on.")
    port: int = Field(default=8001, ge=0, le=65_535, description="Port to listen on; 0: a free one.")
    name: str | None = Field(default=None, description="Name in logs and events; default: host and pid.")
    watch_interval_ms: int = Field(
        default=200,
        ge=20,
        le=5_000,
        description="How often leases are looked at; part of every failover's pause.",
    )
    leader_ttl_ms: int = Field(default=1_000, ge=300, le=30_000, description="A leader silent this long is replaced.")
    silent_after_seconds: float = Field(
        default=5, ge=1, description="A worker without a heartbeat for so long is lost."
    )
    forget_after_seconds: float = Field(
        default=600, ge=1, description="How long workers that are gone stay in the fleet view."
    )
    takeover_concurrency: int = Field(
        default=16, ge=1, le=256, description="Requests of lost workers handed on at a time."
    )
    kept_events: int = Field(default=200, ge=1, le=10_000, description="Fleet events shown by GET /fleet.")
