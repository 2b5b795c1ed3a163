"""What an operator can set about a supervisor: `PENSTOCK_SUPERVISOR_*`. Values and their limits only."""

from pydantic import Field, SecretStr

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
    admin_key: SecretStr | None = Field(
        default=None, description="Asked for by everything that changes the fleet; unset: only this machine may."
    )
    jaeger_url: str | None = Field(
        default=None, description="Jaeger's query API, for a request's waterfall on the status page; unset: none."
    )
    phi_to_suspect: float = Field(
        default=12, gt=0, description="How unlike a worker its silence must be to be suspected before the limit above."
    )
    quarantine: bool = Field(default=True, description="Quarantine workers that are much slower than their pool.")
    slow_factor: float = Field(
        default=2.5, gt=1, description="So many times the pool's median step time is much slower."
    )
    most_ejected_share: float = Field(
        default=0.5, ge=0, lt=1, description="At most this share of a pool is quarantined by itself."
    )
    quarantine_seconds: float = Field(
        default=30, gt=0, description="How long the first quarantine lasts; each further one twice as long."
    )
    scaling: str | None = Field(
        default=None, description="`pool=LEAST..MOST,...`: pools to scale, and their bounds. Unset: none."
    )
    scaling_drain_seconds: float = Field(default=10, gt=0, description="A backlog should be worked off in this time.")
    scaling_target_utilisation: float = Field(
        default=0.7, gt=0, le=1, description="Share of the batches' places that should be taken."
    )
    scaling_cooldown_seconds: float = Field(default=15, ge=0, description="Between two changes of a pool's size.")
    scaling_down_after_seconds: float = Field(
        default=60, ge=0, description="A smaller size must be enough for so long before a worker is taken away."
    )
    scaling_idle_seconds: float = Field(
        default=300, ge=0, description="Idleness after which a pool whose bounds allow it has no workers."
    )
