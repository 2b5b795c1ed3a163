"""Output held to a grammar by the real engine: whole, resumed, forked, cancelled, beside others, refused."""

import json
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import Cancel, Submit
from shared.contracts.grammar import Grammar, GrammarKind
from shared.tokenization.tokenizer import Tokenizer
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit

EOS = 2
PROMPT = list(range(20, 50))
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
JSON = Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA), field="response_format")
REGEX = Grammar(kind=GrammarKind.REGEX, text="[ab]{4}-[0-9]+", field="structured_outputs")
IMPOSSIBLE = Grammar(kind=GrammarKind.JSON_SCHEMA, text='{"type": "string", "enum": [1]}', field="response_format")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_directory(checkpoint)


@pytest.fixture(scope="module")
def shared_engine(checkpoint: Path) -> Engine:
    return Engine.load(EngineConfig(model=checkpoint, num_kv_blocks=256))


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    assert not shared_engine.has_work, "the test before left something running"
    return shared_engine


def held(request_id: str, grammar: Grammar, **options: Any) -> Submit:
    options = {"max_tokens": 200, "eos_token_ids": (EOS,), **options}
    return replace(make_submit(request_id, PROMPT, **options), grammar=grammar)


def text_of(told: Told, tokenizer: Tokenizer, request_id: str, choice: int = 0) -> str:
    return tokenizer.decode(told.tokens[request_id, choice])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_choice_of_a_schema_is_valid_json(engine: Engine, tokenizer: Tokenizer, temperature: float) -> None:
    told = drive(engine, held("a", JSON, n=4, temperature=temperature))
    assert set(told.finish_reasons.values()) == {"stop"}
    for choice in range(4):
        value = json.loads(text_of(told, tokenizer, "a", choice))
        assert set(value) == {"name", "age"}
        assert 0 <= value["age"] <= 99


def test_a_complete_output_ends_without_an_end_token(engine: Engine, tokenizer: Tokenizer) -> None:
    told = drive(engine, held("a", Grammar(kind=GrammarKind.CHOICE, text='["yes", "no"]')))
    assert text_of(told, tokenizer, "a") in ("yes", "no")
    assert EOS not in told.tokens["a", 0]
    assert told.finish_reasons["a", 0] == "stop"


@pytest.mark.parametrize("grammar", [JSON, REGEX], ids=["json", "regex"])
def test_resumed_from_any_cut_the_output_is_the_same(engine: Engine, grammar: Grammar) -> None:
    """Seeded draws and greedy ones: the matcher is advanced over the logged tokens."""
    for temperature in (0.0, 1.0):
        whole = drive(engine, held("a", grammar, temperature=temperature, seed=5, max_tokens=60))
        tokens, reason = whole.tokens["a", 0], whole.finish_reasons["a", 0]
        assert len(tokens) > 4
        for cut in range(1, len(tokens) + 1):
            rest = drive(
                engine, held("b", grammar, temperature=temperature, seed=5, max_tokens=60, outputs=tokens[:cut])
            )
            assert tokens[:cut] + rest.tokens.get(("b", 0), []) == tokens, f"cut at {cut}"
            assert rest.finish_reasons["b", 0] == reason


def test_beside_others_everybody_says_what_they_say_alone(engine: Engine) -> None:
    submissions = [
        held("json", JSON, temperature=1.0, seed=1),
        make_submit("free", PROMPT, temperature=1.0, seed=2),
        held("regex", REGEX, temperature=1.0, seed=3, max_tokens=30),
        make_submit("greedy", PROMPT[:10]),
    ]
    alone = {submit.request_id: drive(engine, submit).tokens[submit.request_id, 0] for submit in submissions}
    together = drive(engine, *submissions)
    assert {name: together.tokens[name, 0] for name in alone} == alone


def test_the_next_masks_are_computed_while_the_model_runs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model waits for them in this test: were they computed behind it, they would not be there."""
    decoder, num_steps = engine._runner._decoder, 0
    forward = decoder.forward

    def forward_when_masks_are_there(*arguments: Any) -> torch.Tensor:
        nonlocal num_steps
        pending = [sequence.constraint._pending for sequence in engine._scheduler.running]  # type: ignore[union-attr]
        assert len(wait(pending, timeout=10).done) == 3
        num_steps += 1
        return forward(*arguments)

    monkeypatch.setattr(decoder, "forward", forward_when_masks_are_there)
    drive(engine, *(held(f"r{seed}", REGEX, temperature=1.0, seed=seed, max_tokens=5) for seed in range(3)))
    assert num_steps == 5


def test_preempted_and_computed_again_the_output_is_the_same(checkpoint: Path) -> None:
    submissions = [held(f"r{index}", JSON, temperature=1.0, seed=index, max_tokens=60) for index in range(6)]
    roomy = Engine.load(EngineConfig(model=checkpoint, num_kv_blocks=256))
    tight = Engine.load(EngineConfig(model=checkpoint, num_kv_blocks=12, enable_prefix_cache=False))
    expected, found = drive(roomy, *submissions), drive(tight, *submissions)
    assert found.statistics[-1].num_preemptions_total > 0
    assert found.tokens == expected.tokens


def test_the_minimum_length_holds_while_the_grammar_allows_it(engine: Engine) -> None:
    told = drive(engine, held("a", Grammar(kind=GrammarKind.REGEX, text="[0-9]*"), min_tokens=12, max_tokens=40))
    assert len(told.tokens["a", 0]) >= 12


def test_a_grammar_that_ends_before_the_minimum_ends_the_choice(engine: Engine, tokenizer: Tokenizer) -> None:
    told = drive(engine, held("a", Grammar(kind=GrammarKind.CHOICE, text='["yes"]'), min_tokens=50))
    assert text_of(told, tokenizer, "a") == "yes"
    assert told.finish_reasons["a", 0] == "stop"


def test_without_end_tokens_the_grammar_still_ends_the_choice(engine: Engine, tokenizer: Tokenizer) -> None:
    told = drive(engine, held("a", JSON, temperature=1.0, ignore_eos=True))
    assert json.loads(text_of(told, tokenizer, "a"))


def test_an_impossible_schema_is_refused_by_the_fields_name_and_the_others_go_on(engine: Engine) -> None:
    told = drive(engine, held("bad", IMPOSSIBLE, n=3), make_submit("good", PROMPT, max_tokens=5))
    assert told.rejected["bad"].param == "response_format"
    assert told.rejected["bad"].code == "invalid_request"
    assert "nsatisfiable" in told.rejected["bad"].message
    assert len(told.tokens["good", 0]) == 5


def test_a_refused_id_may_be_used_again(engine: Engine) -> None:
    assert drive(engine, held("a", IMPOSSIBLE)).rejected
    assert drive(engine, held("a", JSON, temperature=1.0)).finish_reasons["a", 0] == "stop"


def test_a_grammar_that_becomes_too_complex_fails_its_request_by_name(engine: Engine) -> None:
    hostile = Grammar(kind=GrammarKind.REGEX, text="a{1000000000}", field="structured_outputs")
    told = drive(engine, held("bad", hostile), make_submit("good", PROMPT, max_tokens=8))
    assert told.rejected["bad"].param == "structured_outputs"
    assert len(told.tokens["good", 0]) == 8


def test_an_output_that_the_grammar_does_not_allow_is_not_continued(engine: Engine) -> None:
    told = drive(engine, held("a", REGEX, outputs=[30, 31]))
    assert told.rejected["a"].param == "structured_outputs"


def test_cancelled_while_its_grammar_is_compiled_nothing_is_left(engine: Engine) -> None:
    for choice in (None, 0):
        engine.submit(held("a", Grammar(kind=GrammarKind.REGEX, text=f"{'a' * 50}{choice}"), n=2))
        assert engine.has_work
        engine.cancel(Cancel(request_id="a", choice=choice))
        if choice is not None:
            engine.cancel(Cancel(request_id="a", choice=1))
        told = drive(engine)
        assert told.tokens == {}
        assert not engine.has_work
    assert drive(engine, held("a", JSON, temperature=1.0)).finish_reasons["a", 0] == "stop"


def test_one_choice_cancelled_meanwhile_leaves_the_others(engine: Engine) -> None:
    engine.submit(held("a", JSON, n=3, temperature=1.0))
    engine.cancel(Cancel(request_id="a", choice=1))
    told = drive(engine)
    assert set(told.finish_reasons) == {("a", 0), ("a", 2)}


def test_who_waits_for_a_grammar_counts_as_waiting(checkpoint: Path) -> None:
    small = Engine.load(EngineConfig(model=checkpoint, num_kv_blocks=64, max_waiting_sequences=3))
    small.submit(held("a", JSON, n=3, temperature=1.0))
    small.submit(make_submit("b", PROMPT))
    told = drive(small)
    assert told.rejected["b"].code == "engine_saturated"
    assert len(told.finish_reasons) == 3
