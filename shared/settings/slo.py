"""What the platform promises: objectives per lane and targets over a window. Read by worker, gateway and supervisor."""

from pydantic import Field

from shared.contracts.requests import Lane
from shared.settings.service_settings import ScopedSettings, scoped


class SloSettings(ScopedSettings):
    """`PENSTOCK_SLO_*`."""

    model_config = scoped("SLO")

    interactive_first_token_ms: int = Field(
        default=5_000, ge=1, description="An interactive request's first token is late after this."
    )
    interactive_inter_token_ms: int = Field(
        default=200, ge=1, description="An interactive answer is slow above this mean time between tokens."
    )
    bulk_first_token_ms: int = Field(
        default=3_600_000, ge=1, description="A bulk request's first token is late after this."
    )
    bulk_inter_token_ms: int = Field(
        default=1_000, ge=1, description="A bulk answer is slow above this mean time between tokens."
    )
    availability_target: float = Field(
        default=0.999, gt=0, lt=1, description="Share of requests that must not fail for the platform's fault."
    )
    first_token_target: float = Field(
        default=0.99, gt=0, lt=1, description="Share of first tokens that must not be late."
    )
    inter_token_target: float = Field(default=0.99, gt=0, lt=1, description="Share of answers that must not be slow.")
    window_hours: float = Field(default=720, gt=0, description="The error budget is for so long.")

    def first_token_seconds(self, lane: Lane) -> float:
        milliseconds = self.bulk_first_token_ms if lane is Lane.BULK else self.interactive_first_token_ms
        return milliseconds / 1_000

    def inter_token_seconds(self, lane: Lane) -> float:
        milliseconds = self.bulk_inter_token_ms if lane is Lane.BULK else self.interactive_inter_token_ms
        return milliseconds / 1_000
