"""Whatever is drafted, the output is that without drafts: sampled, constrained, preempted, cancelled, resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import Cancel, Submit
from shared.contracts.grammar import Grammar, GrammarKind
from tests.builders import tiny_checkpoint
from tests.engine_driver import Told, drive, make_submit
from tests.fixtures.noisy_checkpoint import noisy_copy
from tests.fixtures.random_models import SaveModel

METHODS = ["prompt-lookup", "lookahead", "quantspec", "int8-self", "draft-model"]
EOS = 2
SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer",'
    ' "minimum": 0, "maximum": 99}}, "required": ["name", "age"], "additionalProperties": false}'
)
JSON = Grammar(kind=GrammarKind.JSON_SCHEMA, text=SCHEMA, field="response_format")
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"n": 2},
    "hot": {"temperature": 1.0, "n": 2, "logprobs": 1},
    "penalised": {"temperature": 0.8, "frequency_penalty": 0.5, "repetition_penalty": 1.2, "min_tokens": 6},
    "cut": {"temperature": 1.2, "top_p": 0.9, "top_k": 30, "min_p": 0.01, "logit_bias": ((5, 3.0), (7, -100.0))},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def draft_model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noisy_copy(checkpoint, tmp_path_factory.mktemp("draft") / "model", noise=0.05)


def load(checkpoint: Path, **changes: Any) -> Engine:
    settings = {"num_kv_blocks": 256, "fixed_draft_tokens": True, "max_draft_tokens": 4, **changes}
    return Engine.load(EngineConfig(model=checkpoint, **settings))


def submissions() -> list[Submit]:
    """Prompts that repeat, so that lookups find something, and a schema's output among them."""
    found = []
    for place, (name, sampling) in enumerate(SAMPLINGS.items()):
        prompt = [7 * number % 31 for number in range(9 + 30 * place)]
        ends = (EOS,) if place % 2 else ()
        found.append(make_submit(name, prompt, seed=place, max_tokens=20, eos_token_ids=ends, **sampling))
    held = [make_submit(f"json {t}", [3, 4, 5], temperature=t, max_tokens=60, eos_token_ids=(EOS,)) for t in (0.0, 1.0)]
    return found + [replace(one, grammar=JSON) for one in held]


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> Told:
    return drive(load(checkpoint), *submissions())


def counts(told: Told) -> tuple[int, int]:
    drafted = sum(statistics.num_drafted for statistics in told.statistics)
    return drafted, sum(statistics.num_accepted for statistics in told.statistics)


@pytest.mark.parametrize("method", METHODS)
def test_no_token_changes_under_any_sampling_or_grammar(
    checkpoint: Path, draft_model: Path, expected: Told, method: str
) -> None:
    told = drive(load(checkpoint, speculation=method, draft_model=draft_model), *submissions())
    assert told.tokens == expected.tokens
    assert told.finish_reasons == expected.finish_reasons
    drafted, accepted = counts(told)
    assert drafted > 20
    assert 0 < accepted < drafted
    of_schemas = [event for event in told.events if event.request_id.startswith("json")]
    assert sum(event.num_accepted for event in of_schemas) > 0


@pytest.mark.parametrize("method", METHODS)
def test_with_preemptions_and_little_room(checkpoint: Path, draft_model: Path, expected: Told, method: str) -> None:
    engine = load(checkpoint, num_kv_blocks=14, speculation=method, draft_model=draft_model)
    told = drive(engine, *submissions())
    assert told.tokens == expected.tokens
    assert told.statistics[-1].num_preemptions_total > 0


@pytest.mark.parametrize("method", METHODS)
def test_cancelled_at_any_step_nothing_is_left_and_the_others_go_on(
    checkpoint: Path, draft_model: Path, expected: Told, method: str
) -> None:
    engine, told = load(checkpoint, speculation=method, draft_model=draft_model), Told()
    for submission in submissions():
        engine.submit(submission)
    for name in ("hot", "json 1.0", "cut"):
        for _ in range(2):
            told.step(engine)
        engine.cancel(Cancel(request_id=name))
        engine.check_integrity()
    while engine.has_work:
        told.step(engine)
    for key in [("greedy", 0), ("greedy", 1), ("penalised", 0), ("json 0.0", 0)]:
        assert told.tokens[key] == expected.tokens[key]
    assert told.statistics[-1].blocks_used == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_goes_on_where_another_worker_without_drafts_was(
    checkpoint: Path, draft_model: Path, expected: Told, method: str
) -> None:
    engine = load(checkpoint, speculation=method, draft_model=draft_model)
    for submission in submissions():
        for index, start in enumerate(submission.choices):
            whole = expected.tokens[submission.request_id, start.index]
            cut = replace(start, output_token_ids=whole[: 5 + index])
            rest = drive(engine, replace(submission, choices=[cut])).tokens[submission.request_id, start.index]
            assert whole[: 5 + index] + rest == whole


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["mistral", "qwen3, sliding"])
def test_with_layers_that_see_only_a_window(random_model: SaveModel, tmp_path: Path, case: str, method: str) -> None:
    """Prompts and outputs longer than the window: blocks are given back while drafts come and go."""
    checkpoint, _ = random_model(case)
    asked = [
        make_submit(f"{t}", [7 * number % 31 for number in range(45)], temperature=t, seed=3, max_tokens=50)
        for t in (0.0, 1.0)
    ]
    expected = drive(load(checkpoint), *asked).tokens
    if method == "prompt-lookup":
        # A random model says nothing twice: what it will say is given, with every fifth token wrong.
        asked = [replace(one, predicted_token_ids=_spoilt(expected[one.request_id, 0])) for one in asked]
    draft_model = noisy_copy(checkpoint, tmp_path / "draft", noise=0.1) if method == "draft-model" else None
    told = drive(load(checkpoint, speculation=method, draft_model=draft_model, enable_prefix_cache=False), *asked)
    assert told.tokens == expected
    drafted, accepted = counts(told)
    assert drafted > 20
    assert accepted > 0 or method == "lookahead"


def _spoilt(token_ids: list[int]) -> list[int]:
    return [int(token_id == 0) if place % 5 == 4 else token_id for place, token_id in enumerate(token_ids)]


def test_a_request_may_ask_for_any_method_that_the_engine_has(checkpoint: Path, draft_model: Path) -> None:
    engine = load(checkpoint, draft_model=draft_model)
    assert engine.ready.speculation_methods == ["none", "prompt-lookup", "lookahead", "draft-model"]
    asked = make_submit("a", [3, 1, 3, 1, 3], max_tokens=24)
    drafted = {}
    for method in (None, "none", "lookahead", "draft-model"):
        told = drive(engine, replace(asked, speculation=method))
        drafted[method] = counts(told)[0]
    assert drafted[None] == drafted["none"] == 0
    assert drafted["lookahead"] > 0
    assert drafted["draft-model"] > 0
    refused = drive(engine, replace(asked, speculation="quantspec")).rejected["a"]
    assert refused.param == "speculation"
    assert "draft-model" in refused.message
