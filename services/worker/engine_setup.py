"""From settings to what the engine process is told, and the tokenizer that goes with it. Starts nothing."""

from services.worker.byte_tokenizer import byte_tokenizer, null_vocabulary
from services.worker.engine_client import EngineClient, RestartPolicy, WatchdogLimits
from services.worker.engine_process import EngineProcessConfig
from services.worker.null_engine import NullEngineConfig
from services.worker.settings import WorkerSettings
from services.worker.tokens_only import TokensOnly
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerMissing

_NULL_MODEL_TOKENS = 8_192


def load_tokenizer(settings: WorkerSettings) -> Tokenizer | TokensOnly:
    """The checkpoint's, or none if it has none; the null engine without a model gets one token per byte.

    Raises `TokenizerError`; `TokenizerMissing` where the null engine would have nothing to say.
    """
    if settings.model is None:
        return byte_tokenizer()
    try:
        return Tokenizer.from_directory(settings.model)
    except TokenizerMissing:
        if settings.engine != "real":
            raise
        return TokensOnly.from_directory(settings.model)


def served_model_name(settings: WorkerSettings) -> str:
    if settings.served_model_name:
        return settings.served_model_name
    return "null" if settings.model is None else settings.model.name


def engine_process_config(settings: WorkerSettings, tokenizer: Tokenizer | TokensOnly) -> EngineProcessConfig:
    if settings.engine == "real":
        return EngineProcessConfig(real=settings.engine_config())
    assert isinstance(tokenizer, Tokenizer), "the null engine speaks a tokenizer's ids"
    return EngineProcessConfig(
        null=NullEngineConfig(
            vocabulary=null_vocabulary(tokenizer),
            model_name=served_model_name(settings),
            max_model_tokens=settings.max_model_tokens or _NULL_MODEL_TOKENS,
            max_running_sequences=settings.max_running_requests,
            step_ms=settings.null_step_ms,
            prefill_ms_per_token=settings.null_prefill_ms_per_token,
            fail_every=settings.null_fail_every,
            prefix_cache_blocks=settings.null_prefix_cache_blocks,
        )
    )


def engine_client(settings: WorkerSettings, tokenizer: Tokenizer | TokensOnly) -> EngineClient:
    return EngineClient(
        engine_process_config(settings, tokenizer),
        restarts=RestartPolicy(max_restarts=settings.max_engine_restarts),
        watchdog=WatchdogLimits(step_seconds=settings.step_timeout_seconds, load_seconds=settings.load_timeout_seconds),
    )
