"""The settings of `penstock up`: each flag is also a `PENSTOCK_UP_*` variable, the flag wins."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from shared.settings.service_settings import ScopedSettings, scoped

DEFAULT_MODEL = "default"
_MOST_WORKERS = 64


class UpSettings(ScopedSettings):
    """`PENSTOCK_UP_*`."""

    model_config = scoped("UP")

    workers: str = Field(
        default="1",
        pattern=r"^\d{1,2}(\.\.\d{1,2})?$",
        description="Worker processes of the pool; `1..4`: as many as its load asks for.",
    )
    gateways: int = Field(default=1, ge=1, le=16, description="Gateways, at the HTTP port and the next ones.")
    supervisors: int = Field(default=1, ge=1, le=8, description="Supervisors; one of them leads.")
    model: str = Field(
        default=DEFAULT_MODEL, description="Hugging Face directory, GGUF file, or `default` (SmolLM2-135M-Instruct)."
    )
    pool: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Name of the pool.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", description="Weights' type.")
    quantization: str = Field(
        default="none",
        description="Weights: none (16 bit), keep (as stored), quantized once (awq-int4, gptq-int4-g128, "
        "smoothquant-int8-g64, fp8), each with -head8 for a head in 8 bits, or rounded at load (rtn-int8 ...).",
    )
    kv_cache: str = Field(
        default="16bit", description="Keys and values: 16bit, int8, fp8, int4, or by layers: int4*10,int8*10,16bit."
    )
    speculation: str = Field(
        default="none",
        description="How tokens are drafted: none, prompt-lookup, lookahead, quantspec, int8-self, draft-model "
        "(docs/speculation.md).",
    )
    draft_model: str | None = Field(
        default=None,
        description="Directory or GGUF file of a smaller model with the same tokenizer, for draft-model.",
    )
    engine: Literal["real", "null"] = Field(default="real", description="`null`: hashes in place of a model.")
    http_port: int = Field(default=8000, ge=0, le=65535, description="Gateway's port; 0 takes a free one.")
    supervisor_port: int = Field(default=8001, ge=0, le=65535, description="Supervisor's port; 0: a free one.")
    kafka_port: int = Field(default=9092, ge=0, le=65535, description="Kafka's port; 0 takes a free one.")
    redis_port: int = Field(default=6379, ge=0, le=65535, description="Redis' port; 0 takes a free one.")
    data_dir: Path = Field(default=Path(".penstock"), description="Where models, logs, spans and Kafka's log live.")
    kafka: str | None = Field(default=None, description="HOST:PORT of a Kafka that already runs.")
    redis: str | None = Field(default=None, description="URL of a Redis that already runs.")

    @field_validator("workers", mode="before")
    @classmethod
    def _a_number_is_written(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        if self.least_workers > self.most_workers or self.most_workers > _MOST_WORKERS:
            raise ValueError(f"workers: need LEAST <= MOST <= {_MOST_WORKERS}")
        return self

    @property
    def least_workers(self) -> int:
        return int(self.workers.partition("..")[0])

    @property
    def most_workers(self) -> int:
        return int(self.workers.rpartition("..")[2])

    @property
    def is_scaled(self) -> bool:
        return ".." in self.workers


class CommandSettings(ScopedSettings):
    """`PENSTOCK_CLI_*`: what the other commands read."""

    model_config = scoped("CLI")

    api_key: str | None = Field(default=None, description="API key that `penstock generate` sends.")
    admin_key: SecretStr | None = Field(default=None, description="Supervisor's admin key, for orders to workers.")
