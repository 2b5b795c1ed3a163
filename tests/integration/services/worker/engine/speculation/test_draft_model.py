"""A draft model of another shape: its own cache follows the target's, and one that speaks other tokens is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.config import EngineConfig, EngineRefused
from services.worker.engine.engine import Engine
from services.worker.engine.speculation.draft_model import DraftModel
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit
from tests.fixtures.noisy_checkpoint import noisy_copy
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def load(checkpoint: Path, draft_model: Path | None, **changes: Any) -> Engine:
    settings = {"num_kv_blocks": 256, "fixed_draft_tokens": True, "max_draft_tokens": 4, "speculation": "draft-model"}
    return Engine.load(EngineConfig(model=checkpoint, draft_model=draft_model, **{**settings, **changes}))


def method_of(engine: Engine) -> DraftModel:
    method = engine._speculation._methods["draft-model"]
    assert isinstance(method, DraftModel)
    return method


def answer(engine: Engine, *, count: int = 3, length: int = 30) -> Told:
    prompts = [[(11 * number + place) % 300 for number in range(length)] for place in range(count)]
    return drive(engine, *(make_submit(str(place), prompt, max_tokens=40) for place, prompt in enumerate(prompts)))


def shares(told: Told) -> float:
    drafted = sum(one.num_drafted for one in told.statistics)
    return sum(one.num_accepted for one in told.statistics) / drafted


def test_the_model_itself_as_its_draft_is_always_right(checkpoint: Path) -> None:
    """So nothing of its cache is stale, whatever was rolled back: one wrong key would show."""
    told = answer(load(checkpoint, checkpoint))
    assert shares(told) == 1.0


def test_after_rejections_the_cache_is_that_of_the_accepted_tokens(checkpoint: Path, tmp_path: Path) -> None:
    """A draft whose cache was filled in one go says what one says whose cache was filled and taken back in pieces."""
    draft = noisy_copy(checkpoint, tmp_path / "draft", noise=0.03)
    told = answer(load(checkpoint, draft))
    assert 0.1 < shares(told) < 1
    for event in told.events:
        if not event.draft_token_ids or event.position < 10:
            continue
        known = told.tokens[event.request_id, 0][: event.position]
        place = int(event.request_id)
        prompt = [(11 * number + place) % 300 for number in range(30)]
        alone = drive(Engine.load(EngineConfig(model=draft, num_kv_blocks=64)), make_submit("a", [*prompt, *known]))
        assert alone.tokens["a", 0][: len(event.draft_token_ids)] == event.draft_token_ids
        break
    else:
        raise AssertionError("nothing was drafted")


def test_a_smaller_model_of_another_shape_drafts_and_changes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    small = tiny_checkpoint(tmp_path / "small", hidden_size=32, num_layers=1, num_query_heads=2, num_kv_heads=1, seed=3)
    told = answer(load(checkpoint, small))
    assert sum(one.num_drafted for one in told.statistics) > 100
    assert told.tokens == answer(load(checkpoint, None, speculation="none")).tokens


def test_a_long_prompt_is_caught_up_with_in_steps_without_a_draft(checkpoint: Path) -> None:
    engine = load(checkpoint, checkpoint, max_tokens_per_step=64)
    told = answer(engine, count=2, length=150)
    assert shares(told) == 1.0
    first = next(place for place, one in enumerate(told.statistics) if one.num_drafted)
    silent = [one for one in told.statistics[:first] if one.num_decode_tokens]
    assert len(silent) >= 2


def test_where_blocks_run_out_others_lose_theirs_and_every_draft_stays_right(checkpoint: Path) -> None:
    engine = load(checkpoint, checkpoint)
    pool = method_of(engine).cache.pool
    taken = [pool.allocate() for _ in range(pool.num_free - 12)]
    told = answer(engine, count=6)
    assert shares(told) == 1.0
    assert told.tokens == answer(load(checkpoint, None, speculation="none"), count=6).tokens
    for block_id in taken:
        pool.release(block_id)
    assert pool.num_used == 0, "a sequence that ended still holds blocks of the draft"


def test_a_sequence_longer_than_the_draft_can_see_goes_on_without(checkpoint: Path, tmp_path: Path) -> None:
    short = tiny_checkpoint(tmp_path / "short", max_position_embeddings=48)
    told = answer(load(checkpoint, short))
    drafted = [event.position for event in told.events if event.draft_token_ids]
    assert 10 < max(drafted) < 48 - 30
    assert {len(tokens) for tokens in told.tokens.values()} == {40}


def test_a_head_that_is_padded_otherwise_is_no_other_vocabulary(checkpoint: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    for directory, size in ((small, 400), (large, 450)):
        write_tiny_checkpoint(directory, config={"vocab_size": size, "max_position_embeddings": 512})
        (directory / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    for target, draft in ((small, large), (large, small)):
        told = answer(load(target, draft))
        assert sum(one.num_drafted for one in told.statistics) > 100
        assert told.tokens == answer(load(target, None, speculation="none")).tokens


def test_other_tokens_by_the_same_numbers_are_refused_by_name(checkpoint: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["!"], vocabulary["#"] = vocabulary["#"], vocabulary["!"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        EngineRefused, match=r"draft-model: .*other has another vocabulary than the model: '!' is token"
    ):
        load(checkpoint, other)


def test_another_number_of_tokens_is_refused_where_no_tokenizer_says_more(checkpoint: Path, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "other")
    with pytest.raises(EngineRefused, match=r"draft-model: .*has a vocabulary of 64 tokens, the model one of"):
        load(checkpoint, tmp_path / "other")


def test_without_a_draft_model_the_method_says_what_it_lacks(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineRefused, match="no draft_model is set"):
        load(checkpoint, None)
    with pytest.raises(EngineRefused, match="draft-model: "):
        load(checkpoint, tmp_path / "nowhere")
