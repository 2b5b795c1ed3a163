"""The engine's manners: how requests end, are refused, cancelled, resumed, and what is told about them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import Cancel
from services.worker.engine.models.embedding import Embed
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def engine(checkpoint: Path) -> Engine:
    return load(checkpoint)


def load(checkpoint: Path, **changes: Any) -> Engine:
    return Engine.load(EngineConfig(**{"model": checkpoint, "num_kv_blocks": 64, **changes}))


PROMPT = list(range(20, 60))


def test_readiness_tells_what_was_loaded(engine: Engine, checkpoint: Path) -> None:
    assert engine.ready.model_name == checkpoint.name
    assert engine.ready.max_model_tokens == 512
    assert engine.ready.num_kv_blocks == 64
    assert (engine.ready.device, engine.ready.dtype) == ("cpu", "float32")
    assert not engine.has_work


def test_the_context_is_no_longer_than_the_cache(checkpoint: Path) -> None:
    assert load(checkpoint, num_kv_blocks=4).ready.max_model_tokens == 64


def test_a_checkpoint_that_promises_a_trillion_positions_costs_no_more_than_the_cache(
    checkpoint: Path, tmp_path: Path
) -> None:
    promising = shutil.copytree(checkpoint, tmp_path / "promising")
    config = json.loads((promising / "config.json").read_text())
    (promising / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**12}))
    engine = load(promising, num_kv_blocks=8)
    assert engine.ready.max_model_tokens == 128
    told = drive(engine, make_submit("whole", PROMPT, max_tokens=128 - len(PROMPT)))
    assert len(told.tokens["whole", 0]) == 128 - len(PROMPT)


def test_a_choice_ends_at_its_length_and_is_told_once_with_timings(engine: Engine) -> None:
    told = drive(engine, make_submit("a", PROMPT, max_tokens=5))
    assert told.finish_reasons == {("a", 0): "length"}
    assert told.positions["a", 0] == [0, 1, 2, 3, 4]
    timings = told.timings["a"]
    assert timings.submitted_ns <= timings.scheduled_ns <= timings.first_token_ns <= timings.last_token_ns


@pytest.mark.parametrize("as_stop_token", [False, True])
def test_an_end_token_ends_a_choice_with_stop(engine: Engine, as_stop_token: bool) -> None:
    free = drive(engine, make_submit("a", PROMPT)).tokens["a", 0]
    ending = free[3]
    asked = {"stop_token_ids": (ending,)} if as_stop_token else {"eos_token_ids": (ending,)}
    told = drive(engine, make_submit("b", PROMPT, **asked))
    assert told.tokens["b", 0] == free[: free.index(ending) + 1]
    assert told.finish_reasons["b", 0] == "stop"


def test_end_tokens_are_ignored_on_request_but_stop_tokens_are_not(engine: Engine) -> None:
    free = drive(engine, make_submit("a", PROMPT)).tokens["a", 0]
    told = drive(engine, make_submit("b", PROMPT, eos_token_ids=(free[3],), ignore_eos=True))
    assert told.tokens["b", 0] == free
    told = drive(engine, make_submit("c", PROMPT, ignore_eos=True, stop_token_ids=(free[3],)))
    assert told.finish_reasons["c", 0] == "stop"


def test_no_end_token_is_drawn_before_the_minimum_length(engine: Engine) -> None:
    first = drive(engine, make_submit("a", PROMPT)).tokens["a", 0][0]
    told = drive(engine, make_submit("b", PROMPT, eos_token_ids=(first,), min_tokens=6))
    assert len(told.tokens["b", 0]) >= 6
    assert first not in told.tokens["b", 0][:6]


def test_a_resumed_choice_that_had_ended_is_told_its_end(engine: Engine) -> None:
    told = drive(engine, make_submit("a", PROMPT, outputs=[5, 6, 7], max_tokens=3))
    assert told.finish_reasons == {("a", 0): "length"}
    assert told.tokens == {("a", 0): []}
    assert told.events[0].position == 3
    assert "a" in told.timings
    told = drive(engine, make_submit("b", PROMPT, outputs=[5, 9], eos_token_ids=(9,)))
    assert told.finish_reasons == {("b", 0): "stop"}


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"prompt": []}, "invalid_request", "prompt"),
        ({"prompt": [1, 100_000]}, "invalid_request", "prompt"),
        ({"prompt": [-1]}, "invalid_request", "prompt"),
        ({"prompt": [1] * 513}, "context_length_exceeded", "messages"),
        ({"prompt": [1] * 500, "max_tokens": 13}, "context_length_exceeded", "messages"),
        ({"prompt": [1], "stop_token_ids": (100_000,)}, "invalid_request", "stop_token_ids"),
        ({"prompt": [1], "n": 0}, "invalid_request", "n"),
    ],
)
def test_what_cannot_run_is_refused_by_name_and_others_go_on(
    engine: Engine, changes: dict[str, Any], code: str, param: str
) -> None:
    told = drive(engine, make_submit("bad", **changes), make_submit("good", PROMPT))
    assert (told.rejected["bad"].code, told.rejected["bad"].param) == (code, param)
    assert list(told.tokens) == [("good", 0)]


def test_a_request_as_long_as_the_whole_cache_runs(checkpoint: Path) -> None:
    engine = load(checkpoint, num_kv_blocks=4)
    told = drive(engine, make_submit("a", [1] * 40, max_tokens=24), make_submit("b", [2] * 40, max_tokens=24))
    assert [len(tokens) for tokens in told.tokens.values()] == [24, 24]
    assert "c" in drive(engine, make_submit("c", [1] * 40, max_tokens=25)).rejected


def test_an_id_that_runs_already_is_refused(engine: Engine) -> None:
    told = drive(engine, make_submit("a", PROMPT), make_submit("a", PROMPT))
    assert told.rejected["a"].param == "request_id"
    assert len(told.tokens["a", 0]) == 16


def test_a_full_queue_refuses(checkpoint: Path) -> None:
    engine = load(checkpoint, max_waiting_sequences=2)
    told = drive(engine, *(make_submit(name, PROMPT) for name in "abc"))
    assert told.rejected["c"].code == "engine_saturated"
    assert {key[0] for key in told.tokens} == {"a", "b"}


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_a_cancelled_request_gives_its_blocks_back_at_once(checkpoint: Path, num_steps: int) -> None:
    """Waiting, in the middle of its prompt, decoding."""
    engine = load(checkpoint, max_tokens_per_step=30, max_running_sequences=4)
    engine.submit(make_submit("a", PROMPT, n=3))
    told = Told()
    for _ in range(num_steps):
        told.step(engine)
    engine.cancel(Cancel(request_id="a"))
    engine.check_integrity()
    last = Told()
    last.step(engine)
    assert last.statistics[0].blocks_used == 0
    assert last.statistics[0].outstanding_tokens == 0
    assert not last.tokens
    assert not engine.has_work


def test_cancelling_the_choice_that_prefills_lets_the_others_go_on(checkpoint: Path) -> None:
    engine = load(checkpoint, max_tokens_per_step=16, max_running_sequences=4)
    engine.submit(make_submit("a", PROMPT, n=3, temperature=1.0))
    Told().step(engine)
    engine.cancel(Cancel(request_id="a", choice=0))
    engine.cancel(Cancel(request_id="a", choice=2))
    engine.cancel(Cancel(request_id="unknown"))
    told = drive(engine)
    assert list(told.finish_reasons) == [("a", 1)]
    assert "a" in told.timings


def poison_embedding(engine: Engine, token_id: int) -> Embed:
    """This token's vector is not a number from now on. Returns what looked tokens up before."""
    decoder = engine._runner._decoder
    healthy = decoder._embed

    def poisoned(token_ids: torch.Tensor) -> torch.Tensor:
        return healthy(token_ids).masked_fill((token_ids == token_id)[:, None], float("nan"))

    decoder._embed = poisoned
    return healthy


def test_numbers_that_are_none_fail_only_their_request(checkpoint: Path) -> None:
    engine = load(checkpoint)
    poison = 77
    poison_embedding(engine, poison)
    told = drive(engine, make_submit("bad", [1, poison, 2], n=2), make_submit("good", PROMPT, n=2))
    assert told.rejected["bad"].code == "engine_failed"
    assert {key[0] for key in told.tokens} == {"good"}
    assert drive(engine, make_submit("again", PROMPT)).tokens["again", 0] == told.tokens["good", 0]


def test_what_was_computed_wrongly_is_not_reused(checkpoint: Path) -> None:
    """A device that hiccups once must not leave a poisoned prefix behind."""
    expected = drive(load(checkpoint), make_submit("a", PROMPT)).tokens["a", 0]
    engine = load(checkpoint)
    healthy = poison_embedding(engine, PROMPT[3])
    assert "a" in drive(engine, make_submit("a", PROMPT)).rejected
    engine._runner._decoder._embed = healthy
    assert drive(engine, make_submit("b", PROMPT)).tokens["b", 0] == expected


def test_salts_keep_prefixes_apart(engine: Engine) -> None:
    drive(engine, make_submit("a", PROMPT, cache_salt="one"))
    assert drive(engine, make_submit("b", PROMPT, cache_salt="two")).timings["b"].cached_prompt_tokens == 0
    assert drive(engine, make_submit("c", PROMPT, cache_salt="one")).timings["c"].cached_prompt_tokens == 32


def test_the_smaller_order_goes_first(checkpoint: Path) -> None:
    engine = load(checkpoint, max_running_sequences=1)
    late = make_submit("late", PROMPT, order=(1, 0, 0, 0))
    early = make_submit("early", PROMPT, order=(0, 5, 0, 0))
    assert list(drive(engine, late, early).finish_reasons) == [("early", 0), ("late", 0)]


def test_tokens_of_a_shared_prefix_are_not_computed_again(engine: Engine) -> None:
    drive(engine, make_submit("a", PROMPT))
    told = drive(engine, make_submit("b", PROMPT))
    assert sum(statistics.num_prefill_tokens for statistics in told.statistics) == len(PROMPT) - 32


def test_an_unknown_device_or_dtype_or_backend_is_named(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="float8"):
        load(checkpoint, dtype="float8")
    with pytest.raises(ValueError, match="magic"):
        load(checkpoint, attention_backend="magic")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA"):
            load(checkpoint, device="cuda")
