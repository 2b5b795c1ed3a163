"""Where the ledger's Redis is and how its keys look. Read by every service."""

from pydantic import Field

from shared.settings.service_settings import ScopedSettings, scoped


class RedisSettings(ScopedSettings):
    """`PENSTOCK_REDIS_*`."""

    model_config = scoped("REDIS")

    url: str = Field(default="redis://127.0.0.1:6379/0", description="redis:// or rediss:// URL.")
    key_prefix: str = Field(default="penstock:", description="Put before every key and channel.")
    lease_ttl_ms: int = Field(default=1_200, ge=200, description="A worker silent this long is lost.")
    lease_refresh_ms: int = Field(default=300, ge=50, description="How often a worker refreshes its lease.")
    foreign_patience_ms: int = Field(
        default=15_000,
        ge=0,
        description="How long a begun request waits for an engine with the weights that began it; then it fails.",
    )
    done_retention_seconds: int = Field(
        default=691_200,
        ge=60,
        description="How long a finished request is remembered; beyond topic retention.",
    )
    log_retention_seconds: int = Field(default=3_600, ge=60, description="How long a finished stream can be re-read.")
    breaker_failures: int = Field(
        default=5, ge=1, description="Failed calls in a row after which calls are refused at once for a while."
    )
    breaker_open_ms: int = Field(
        default=1_000, ge=1, description="How long they are refused, before a few are let through to try."
    )
    recovery_window_seconds: int = Field(
        default=3_600,
        ge=0,
        description="After Redis lost its data: results and cancellations this old are put back before work goes on.",
    )
