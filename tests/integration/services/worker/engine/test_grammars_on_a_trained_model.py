"""A trained model with a real vocabulary, held to a schema: valid JSON that still says what it knows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.requests import ChatMessage
from shared.tokenization.tokenizer import Tokenizer
from tests.engine_driver import drive, make_submit

pytestmark = [pytest.mark.model, pytest.mark.slow]

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "country": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "maximum": 100_000_000},
        "is_coastal": {"type": "boolean"},
    },
    "required": ["city", "country", "population", "is_coastal"],
    "additionalProperties": False,
}


def test_every_sample_is_valid_json_and_the_greedy_one_is_about_the_question(smollm2_directory: Path) -> None:
    tokenizer = Tokenizer.from_directory(smollm2_directory)
    engine = Engine.load(EngineConfig(model=smollm2_directory, num_kv_blocks=256))
    question = ChatMessage(role="user", content="Describe the city of Lisbon as JSON: city, country, population.")
    prompt = tokenizer.encode_chat([question])
    grammar = Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA), field="response_format")
    submissions = [
        replace(
            make_submit(
                f"r{index}", prompt, temperature=temperature, seed=index, max_tokens=120,
                eos_token_ids=tokenizer.eos_token_ids,
            ),
            grammar=grammar,
        )
        for index, temperature in enumerate([0.0, 0.7, 0.7, 1.0, 1.0, 1.0])
    ]  # fmt: skip
    told = drive(engine, *submissions)
    assert set(told.finish_reasons.values()) == {"stop"}
    values = [json.loads(tokenizer.decode(told.tokens[f"r{index}", 0])) for index in range(len(submissions))]
    assert all(set(value) == set(SCHEMA["required"]) for value in values)
    assert (values[0]["city"], values[0]["country"]) == ("Lisbon", "Portugal")
