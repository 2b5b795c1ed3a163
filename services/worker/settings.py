"""The worker's settings: `PENSTOCK_WORKER_*`, read once in `__main__`. Knows names and ranges, starts nothing."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from services.worker.engine.config import (
    KV_CACHE_NAME,
    QUANTIZATION_NAME,
    SPECULATION_NAME,
    EngineConfig,
    SchedulingPolicy,
    Verifier,
)
from shared.settings.service_settings import ScopedSettings, scoped


class WorkerSettings(ScopedSettings):
    """`PENSTOCK_WORKER_*`."""

    model_config = scoped("WORKER")

    name: str = Field(default="", description="Stable name of this worker; empty: the pool, host and process.")
    pool: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="The pool it serves.")
    engine: Literal["real", "null"] = Field(
        default="real", description="`null`: tokens from a hash instead of a model."
    )
    model: Path | None = Field(
        default=None, description="Directory or GGUF file of the checkpoint; the null engine needs none."
    )
    served_model_name: str = Field(
        default="", description="Name that requests use for the model; empty: the checkpoint's own name."
    )
    device: str = Field(default="auto", description="auto, cpu or cuda.")
    dtype: str = Field(default="auto", description="auto, float32, bfloat16 or float16.")
    quantization: str = Field(
        default="none",
        pattern=QUANTIZATION_NAME,
        description="Weights: none (16 bit), keep (as stored), keep-head8 (and the head in 8 bits), or rounded at "
        "load: rtn-int8, rtn-int4-g64-a8 ...",
    )
    kv_cache: str = Field(
        default="16bit",
        pattern=KV_CACHE_NAME,
        description="Keys and values: 16bit, int8, fp8, int4, or by layers from the first on: int4*10,int8*10,16bit.",
    )
    speculation: str = Field(
        default="none",
        pattern=SPECULATION_NAME,
        description="How tokens are drafted where the request does not say: none, prompt-lookup, lookahead, quantspec, "
        "int8-self, draft-model.",
    )
    verifier: Verifier = Field(
        default=Verifier.COUPLED,
        description="How drafts are judged: coupled (no output changes), or rejection (more tokens stand).",
    )
    draft_model: Path | None = Field(
        default=None,
        description="Directory of a smaller checkpoint with the same tokenizer, for draft-model.",
    )
    max_draft_tokens: int = Field(default=8, ge=1, le=64, description="Drafted for a sequence in one step, at most.")
    shared_text_tokens: int = Field(
        default=0, ge=0, description="Tokens of each tenant's latest texts that lookups search, too; 0: none."
    )
    num_threads: int | None = Field(
        default=None, ge=1, description="Threads of the engine; unset: one for each core it may use."
    )
    kv_cache_bytes: int | None = Field(
        default=None, ge=1, description="Size of the KV cache; unset: a share of what is free."
    )
    device_memory_fraction: float = Field(
        default=0.9, gt=0, le=1, description="Of a card's memory for weights, one step and the KV cache together."
    )
    enable_cuda_graphs: bool = Field(
        default=True, description="On CUDA decode steps are recorded once for each batch size, then replayed."
    )
    block_size_tokens: int = Field(
        default=16, ge=1, le=1024, description="Positions of one KV block; flash-attn 2 needs a multiple of 256."
    )
    max_model_tokens: int | None = Field(
        default=None, ge=16, description="Prompt and output together; unset: the checkpoint's limit."
    )
    max_running_requests: int = Field(
        default=64, ge=1, le=4096, description="Sequences that run in one batch of the engine."
    )
    max_tokens_per_step: int = Field(default=512, ge=16, description="Token budget of one engine step.")
    scheduling_policy: SchedulingPolicy = Field(
        default=SchedulingPolicy.CONTINUOUS, description="continuous; static is for comparison only."
    )
    enable_prefix_cache: bool = Field(default=True, description="Reuse KV blocks of equal prefixes.")
    attention_backend: str = Field(
        default="auto", description="auto, or flash-attn-3, flash-attn-2, triton, native, sdpa, gather, reference."
    )
    null_step_ms: float = Field(
        default=0.5, ge=0, description="How long a step of the null engine takes; 0 spins on one core."
    )
    null_prefill_ms_per_token: float = Field(
        default=0, ge=0, description="How long the null engine takes for a prompt token that it does not know."
    )
    null_prefix_cache_blocks: int = Field(
        default=0, ge=0, description="Blocks of 16 prompt tokens that the null engine remembers."
    )
    null_fail_every: int = Field(
        default=0, ge=0, description="The null engine fails every so many-th request in the middle; 0: none."
    )
    intake_high_mark: int | None = Field(
        default=None, ge=1, description="Records in hand at which intake pauses; unset: twice the batch."
    )
    max_open_tokens: int | None = Field(
        default=None, ge=1, description="Tokens in hand at which intake pauses; unset: twice the KV cache."
    )
    flush_interval_ms: int = Field(
        default=20, ge=1, le=1000, description="At most this often a request's tokens go out."
    )
    max_attempts: int = Field(default=3, ge=1, description="Lost claims after which a request is given up.")
    heartbeat_interval_ms: int = Field(default=500, ge=50, description="Between two heartbeats.")
    drain_seconds: float = Field(
        default=30.0, ge=0, description="How long running requests may finish when the worker stops."
    )
    step_timeout_seconds: float = Field(
        default=60.0, gt=0, description="An engine silent this long with work is killed and started again."
    )
    load_timeout_seconds: float = Field(default=900.0, gt=0, description="How long loading a model may take.")
    max_engine_restarts: int = Field(
        default=5, ge=0, description="Engine deaths within five minutes after which the worker gives up."
    )
    reply_timeout_seconds: float = Field(
        default=5.0, gt=0, description="How long a result may wait for its reply topic."
    )
    dead_letter_ratio: float = Field(
        default=0.5, gt=0, le=1, description="Share of undecodable records at which the worker stops and alarms."
    )
    dead_letter_run_length: int = Field(
        default=100, ge=1, description="Undecodable records in a row at which the worker stops and alarms."
    )
    health_host: str = Field(default="127.0.0.1", description="Where /livez, /readyz and /metrics listen.")
    health_port: int = Field(default=0, ge=0, le=65535, description="Their port; 0: a free one, see the log.")

    @model_validator(mode="after")
    def _a_real_engine_has_a_model(self) -> Self:
        if self.engine == "real" and self.model is None:
            raise ValueError("PENSTOCK_WORKER_MODEL is needed unless PENSTOCK_WORKER_ENGINE=null")
        return self

    def engine_config(self) -> EngineConfig:
        """For a real engine."""
        assert self.model is not None
        return EngineConfig(
            model=self.model,
            dtype=self.dtype,
            device=self.device,
            kv_cache_bytes=self.kv_cache_bytes,
            device_memory_fraction=self.device_memory_fraction,
            enable_cuda_graphs=self.enable_cuda_graphs,
            block_size_tokens=self.block_size_tokens,
            max_model_tokens=self.max_model_tokens,
            max_tokens_per_step=self.max_tokens_per_step,
            max_running_sequences=self.max_running_requests,
            policy=self.scheduling_policy,
            enable_prefix_cache=self.enable_prefix_cache,
            attention_backend=self.attention_backend,
            num_threads=self.num_threads,
            quantization=self.quantization,
            kv_cache=self.kv_cache,
            speculation=self.speculation,
            verifier=self.verifier,
            draft_model=self.draft_model,
            max_draft_tokens=self.max_draft_tokens,
            shared_text_tokens=self.shared_text_tokens,
        )
