"""Whatever is in a batch file, every line that is not blank gets exactly one answer, in its place."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.null_engine import NullEngine, NullEngineConfig
from services.worker.offline.batch_run import BatchRun, ServedModel
from shared.tokenization.tokenizer import Tokenizer
from tests.fixtures.tiny_tokenizers import write_tokenizer

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
BODY = st.fixed_dictionaries(
    {"prompt": st.text(max_size=10) | st.lists(st.integers(-1, 80), max_size=4) | JSON},
    optional={
        "max_tokens": st.integers(0, 60) | JSON,
        "n": st.integers(0, 4) | JSON,
        "stop": st.text(max_size=2) | JSON,
        "temperature": st.floats(-1, 3),
        "messages": JSON,
        "return_token_ids": st.booleans(),
    },
)
LINE = st.fixed_dictionaries(
    {"custom_id": st.sampled_from("abcdef") | JSON, "method": st.sampled_from(["POST", "POST", "GET"])},
    optional={"url": st.sampled_from(["/v1/completions", "/v1/chat/completions"]) | JSON, "body": BODY | JSON},
)
LINES = st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")) | LINE, max_size=12)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    return Tokenizer.from_directory(write_tokenizer(directory))


@given(lines=LINES, has_tokenizer=st.booleans(), max_open_choices=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_every_line_has_one_answer_in_its_place(
    tokenizer: Tokenizer, lines: list[Any], has_tokenizer: bool, max_open_choices: int
) -> None:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    model = ServedModel(
        name="m", accepted_name=None, tokenizer=tokenizer if has_tokenizer else None, eos_token_ids=(70,)
    )
    engine = NullEngine(NullEngineConfig(vocabulary=tuple(range(60, 75)), max_model_tokens=50))
    run = BatchRun(engine, model, created_seconds=1, max_open_choices=max_open_choices)
    answers = [json.loads(answer) for answer in run.answers(texts)]

    asked = [line for line, text in zip(lines, texts, strict=True) if text.strip()]
    assert len(answers) == len(asked)
    for line, answer in zip(asked, answers, strict=True):
        custom_id = line.get("custom_id") if isinstance(line, dict) else None
        assert answer["custom_id"] == (custom_id if isinstance(custom_id, str) and custom_id else None)
        assert (answer["error"] is None) is (answer["response"]["status_code"] == 200)
    assert run.num_failed == sum(answer["error"] is not None for answer in answers)
    assert not engine.has_work
