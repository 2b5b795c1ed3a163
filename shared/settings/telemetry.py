"""Logs, traces, metrics: how each service speaks. Read by every service."""

from typing import Literal

from pydantic import Field

from shared.settings.service_settings import ScopedSettings, scoped


class TelemetrySettings(ScopedSettings):
    """`PENSTOCK_TELEMETRY_*`. OTEL_EXPORTER_OTLP_ENDPOINT and the other OTEL_ variables are honoured as well."""

    model_config = scoped("TELEMETRY")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="Least level logged.")
    log_format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or for eyes.")
    log_content: bool = Field(default=False, description="Log prompts and outputs too. Off: they stay private.")
    trace_sample_ratio: float = Field(default=1.0, ge=0, le=1, description="Share of new traces that are kept.")
    otlp_endpoint: str | None = Field(default=None, description="OTLP/HTTP base URL; OTEL_EXPORTER_OTLP_ENDPOINT wins.")
    service_instance: str | None = Field(default=None, description="service.instance.id; default: host and pid.")
