"""The worker's settings and what the engine process is told of them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.worker.engine_process import EngineProcessConfig, decode_config, encode_config
from services.worker.engine_setup import engine_process_config, load_tokenizer, served_model_name
from services.worker.settings import WorkerSettings
from services.worker.tokens_only import TokensOnly
from shared.settings.service_settings import UnknownSetting, reject_unknown_variables
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerMissing


def test_a_real_engine_without_a_model_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="PENSTOCK_WORKER_MODEL"):
        WorkerSettings(engine="real")


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_WORKER_ENGINE", "null")
    monkeypatch.setenv("PENSTOCK_WORKER_POOL", "summaries")
    settings = WorkerSettings()
    assert (settings.engine, settings.pool, settings.flush_interval_ms) == ("null", "summaries", 20)


def test_a_misspelt_setting_is_refused_with_the_right_name() -> None:
    with pytest.raises(UnknownSetting, match="did you mean PENSTOCK_WORKER_DRAIN_SECONDS"):
        reject_unknown_variables({"PENSTOCK_WORKER_DRAIN_SECOND": "1"}, WorkerSettings)


@pytest.mark.parametrize("pool", ["", "Upper", "with space", "a" * 64])
def test_a_pool_name_that_is_no_part_of_a_topic_name_is_refused(pool: str) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(engine="null", pool=pool)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in WorkerSettings.model_fields.values())


def test_the_null_engine_needs_no_model_and_speaks_ids_of_its_tokenizer() -> None:
    settings = WorkerSettings(engine="null", max_running_requests=7, null_step_ms=3.0)
    tokenizer = load_tokenizer(settings)
    assert isinstance(tokenizer, Tokenizer)
    config = engine_process_config(settings, tokenizer)
    assert config.real is None
    assert config.null is not None
    assert (config.null.max_running_sequences, config.null.step_ms) == (7, 3.0)
    assert all(0 <= token < tokenizer.vocabulary_size for token in config.null.vocabulary)
    assert not set(config.null.vocabulary) & set(tokenizer.eos_token_ids)
    assert tokenizer.decode(list(config.null.vocabulary)).isascii()


def test_the_engine_process_config_survives_the_command_line() -> None:
    settings = WorkerSettings(engine="real", model=Path("/models/x"), num_threads=2, kv_cache_bytes=1 << 20)
    config = EngineProcessConfig(real=settings.engine_config())
    assert decode_config(encode_config(config)) == config


def test_the_model_is_called_as_the_operator_says_else_by_its_directory() -> None:
    assert served_model_name(WorkerSettings(engine="real", model=Path("/models/smol"))) == "smol"
    named = WorkerSettings(engine="real", model=Path("/models/smol"), served_model_name="chat")
    assert served_model_name(named) == "chat"
    assert served_model_name(WorkerSettings(engine="null")) == "null"


def test_without_a_tokenizer_the_null_engine_has_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(TokenizerMissing):
        load_tokenizer(WorkerSettings(engine="null", model=tmp_path))


def test_without_a_tokenizer_the_real_engine_speaks_token_ids_and_ends_where_its_configuration_says(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": [9, 4]}')
    tokenizer = load_tokenizer(WorkerSettings(engine="real", model=tmp_path))
    assert isinstance(tokenizer, TokensOnly)
    assert tokenizer.eos_token_ids == (4, 9)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert load_tokenizer(WorkerSettings(engine="real", model=tmp_path)).eos_token_ids == (2,)


def test_a_quantization_that_means_nothing_is_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(ValidationError, match="quantization"):
        WorkerSettings(engine="null", quantization="int4")
    settings = WorkerSettings(engine="real", model=Path("m"), quantization="rtn-int8-g32-a16")
    assert settings.engine_config().quantization == "rtn-int8-g32-a16"
