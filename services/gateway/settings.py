"""What an operator can set about a gateway: `PENSTOCK_GATEWAY_*`. Values and their limits only."""

from pydantic import Field, SecretStr

from services.gateway.routing_policies import RoutingPolicy
from shared.settings.service_settings import ScopedSettings, scoped


class GatewaySettings(ScopedSettings):
    """`PENSTOCK_GATEWAY_*`."""

    model_config = scoped("GATEWAY")

    host: str = Field(default="0.0.0.0", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65_535, description="Port to listen on; 0: a free one.")
    name: str | None = Field(default=None, description="Name in logs and traces; default: host and pid.")
    api_keys: SecretStr | None = Field(
        default=None,
        description="A fixed few, `key=tenant,key=tenant`, beside those of `penstock key`; with neither none is asked.",
    )
    default_tenant: str = Field(default="default", min_length=1, description="Tenant of keyless callers.")
    default_pool: str = Field(
        default="default", min_length=1, description="Preferred pool of a model that several serve."
    )
    body_limit_bytes: int = Field(
        default=2_097_152, ge=1_024, description="Largest request body; keep it below Kafka's record limit."
    )
    max_outstanding_requests: int = Field(
        default=2_048, ge=1, description="Requests one gateway waits for at a time; beyond it: 503."
    )
    admission: bool = Field(
        default=True, description="Refuse early what would miss its objective; off: only the bounds above and below."
    )
    bulk_share: float = Field(default=0.5, gt=0, le=1, description="Share of the places that the bulk lane may take.")
    greedy_share: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="Share of places and waiting time left to tenants that had more than a fair share.",
    )
    tenant_requests_per_minute: int | None = Field(
        default=None, ge=1, description="Requests of each tenant at this gateway; beyond: 429. Unset: no limit."
    )
    tenant_tokens_per_minute: int | None = Field(
        default=None, ge=1, description="Output tokens that each tenant may ask for; beyond: 429. Unset: no limit."
    )
    tenant_limits: str | None = Field(
        default=None, description="`tenant=REQUESTS/TOKENS,...` a minute, in place of the two above."
    )
    tenant_outstanding_requests: int | None = Field(
        default=None, ge=1, description="Requests of one tenant under way at a time; beyond: 429. Unset: no limit."
    )
    tenant_outstanding_tokens: int | None = Field(
        default=None, ge=1, description="Output tokens asked for by what one tenant has under way. Unset: no limit."
    )
    tenant_weights: str | None = Field(
        default=None, description="`tenant=WEIGHT,...`: fair shares under pressure; a tenant not named has weight 1."
    )
    routing: RoutingPolicy = Field(
        default=RoutingPolicy.AFFINITY,
        description="round-robin, least-tokens, weighted, adaptive (first done) or affinity (shared prefixes).",
    )
    default_deadline_seconds: float = Field(
        default=600, gt=0, description="A request without a deadline of its own gets this one."
    )
    grace_seconds: float = Field(
        default=5, ge=0, description="How long a disconnected client may stay away before its request ends."
    )
    first_event_seconds: float = Field(
        default=10, gt=0, description="After this long without a first event a stream starts with pings."
    )
    ping_seconds: float = Field(default=5, gt=0, description="Silence between pings of a started stream.")
    silence_seconds: float = Field(
        default=1, gt=0, description="A stream silent this long looks at the log in the ledger."
    )
    stream_buffer_chunks: int = Field(
        default=256, ge=1, description="Chunks held for a slow reader; beyond it the log serves them."
    )
    heartbeat_age_seconds: float = Field(default=5, gt=0, description="A worker silent this long is not routed to.")
    model_memory_seconds: float = Field(
        default=900, ge=0, description="How long a model without workers is 503 instead of 404."
    )
    drain_seconds: float = Field(default=25, ge=0, description="How long open responses may run on after SIGTERM.")
    access_log: bool = Field(default=False, description="One log line per HTTP request.")
