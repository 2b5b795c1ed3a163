"""The oracle's own reading of the null engine's rule agrees with the null engine, without sharing a line with it."""

import ast
from pathlib import Path

import pytest

from services.worker.byte_tokenizer import byte_tokenizer, null_vocabulary
from services.worker.engine.events import ChoiceStart, Submit
from services.worker.null_engine import NullEngine, NullEngineConfig
from services.worker.running_request import choice_seed
from shared.contracts.requests import ChatMessage
from shared.contracts.sampling import SamplingParameters
from tests.chaos import expected_text as rule
from tests.chaos.expected_text import chat_prompt, expected_text, seed_of_choice


def said_by_the_engine(prompt_token_ids: list[int], seed: int, num_tokens: int) -> str:
    tokenizer = byte_tokenizer()
    engine = NullEngine(NullEngineConfig(vocabulary=null_vocabulary(tokenizer)))
    engine.submit(
        Submit(
            request_id="r",
            choices=[ChoiceStart(index=0, prompt_token_ids=prompt_token_ids, output_token_ids=[], seed=seed)],
            sampling=SamplingParameters(max_tokens=num_tokens),
            eos_token_ids=[],
            order=(0, 0, 0, 0),
            cache_salt="",
            traceparent=None,
        )
    )
    ids: list[int] = []
    while engine.has_work:
        ids += [token_id for event in engine.step().tokens for token_id in event.token_ids]
    return "".join(map(tokenizer.token_text, ids))


@pytest.mark.parametrize("content", ["hello", "Ünïcode ✓", "", "a\nb"])
def test_it_says_what_the_null_engine_says_to_a_chat(content: str) -> None:
    prompt = byte_tokenizer().encode_chat([ChatMessage(role="user", content=content)])
    assert expected_text(chat_prompt(content), seed=77, num_tokens=60) == said_by_the_engine(prompt, 77, 60)


def test_it_says_what_the_null_engine_says_to_a_completion() -> None:
    prompt = byte_tokenizer().encode_prompt("once upon")
    assert expected_text("once upon", seed=1 << 62, num_tokens=40) == said_by_the_engine(prompt, 1 << 62, 40)


@pytest.mark.parametrize("index", [0, 1, 7])
def test_a_choice_has_the_seed_that_the_worker_gives_it(index: int) -> None:
    assert seed_of_choice(123, index) == choice_seed(123, index)


def test_a_lost_token_changes_what_follows() -> None:
    whole = expected_text("x", seed=5, num_tokens=100)
    assert expected_text("x" + whole[:10], seed=5, num_tokens=90) != whole[10:]


@pytest.mark.parametrize("module", ["expected_text", "oracle", "asks"])
def test_the_oracle_imports_nothing_of_the_platform(module: str) -> None:
    source = (Path(rule.__file__).parent / f"{module}.py").read_text()
    names = [
        name
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    assert [name for name in names if name.startswith(("services", "shared"))] == []
