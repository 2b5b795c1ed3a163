"""HTTP, Kafka and run-batch: what a caller can ask is answered, or refused by name, alike by all three."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.embedded.stack import EmbeddedStack
from services.worker.offline.run_batch import run_batch
from tests.fixtures.stack import TINY, Topics

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

Body = dict[str, Any]

SCHEMA = {"type": "object", "properties": {"level": {"enum": [1, 2]}}, "required": ["level"]}
SCHEMA["additionalProperties"] = False
TOOL = {"type": "function", "function": {"name": "open_gate", "parameters": SCHEMA}}
NAMED = {"type": "function", "function": {"name": "open_gate"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
IMPOSSIBLE = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "enum": [1]}}}


def chat(**fields: Any) -> Body:
    return {"messages": [{"role": "user", "content": "Where does the water go?"}], "max_tokens": 24, **fields}


def completion(**fields: Any) -> Body:
    return {"prompt": "The sluice", "max_tokens": 12, "temperature": 0, **fields}


ANSWERED: dict[str, Body] = {
    "truncation": chat(temperature=1.2, top_p=0.8, top_k=20, min_p=0.02, seed=3, n=2, logprobs=True, top_logprobs=2),
    "penalties": completion(repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=0.5),
    "bias and minimum": completion(logit_bias={"70": 100}, min_tokens=4, ignore_eos=True, return_token_ids=True),
    "stop token": completion(logit_bias={"70": 100}, stop_token_ids=[70]),
    "stop string": completion(guided_regex="xy{20}", stop="yyy", max_tokens=30),
    "scored prompt": completion(echo=True, logprobs=2, max_tokens=0),
    "echo": completion(echo=True, logprobs=0),
    "best of": completion(n=2, best_of=4, temperature=1.0, seed=5),
    "several prompts of token ids": completion(prompt=[[5, 6, 7], [8, 9]], logprobs=1),
    "json schema": chat(response_format=FORMAT, seed=6),
    "json object": chat(response_format={"type": "json_object"}, max_tokens=60, seed=1),
    "choice": completion(guided_choice=["weir", "sluice"], n=3, temperature=1.0, seed=2),
    "lark": completion(structured_outputs={"grammar": 'start: "pool" | "pond"'}),
    "guided json": completion(guided_json=SCHEMA, seed=8, max_tokens=40),
    "named tool": chat(tools=[TOOL], tool_choice=NAMED, max_tokens=95, parallel_tool_calls=False, seed=9),
    "tool": chat(tools=[TOOL], tool_choice="required", max_tokens=95, parallel_tool_calls=False, seed=7),
}
REFUSED: dict[str, tuple[Body, str]] = {
    "chats are not echoed": (chat(echo=True), "echo"),
    "chats have no best of": (chat(best_of=2), "best_of"),
    "no suffix": (completion(suffix="."), "suffix"),
    "too hot": (completion(temperature=9), "temperature"),
    "alternatives without probabilities": (chat(top_logprobs=2), "top_logprobs"),
    "impossible schema": (chat(response_format=IMPOSSIBLE), "response_format"),
    "an empty prompt": (completion(prompt=""), "prompt"),
    "a prompt of no tokens": (completion(prompt=[[5], []]), "prompt[1]"),
    "a token that is none": (completion(prompt=[999_999]), "prompt"),
    "a bias of a token that is none": (completion(logit_bias={"99999": 1}), "logit_bias"),
    "longer than the context": (completion(prompt=[5] * 4000), "prompt"),
}


@pytest.fixture(scope="module")
def by_batch(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Body]:
    bodies = ANSWERED | {name: body for name, (body, _) in REFUSED.items()}
    lines = [
        {"custom_id": name, "method": "POST", "url": f"/v1/{_endpoint(body)}", "body": {"model": TINY, **body}}
        for name, body in bodies.items()
    ]
    directory = tmp_path_factory.mktemp("batch")
    asked, answers = directory / "asked.jsonl", directory / "answers.jsonl"
    asked.write_text("\n".join(map(json.dumps, lines)) + "\n")
    run_batch(tiny_model, asked, answers, "float32")
    found = map(json.loads, answers.read_text().splitlines())
    return {answer["custom_id"]: answer["response"]["body"] for answer in found}


async def by_http(stack: EmbeddedStack, body: Body) -> Body:
    async with httpx.AsyncClient(base_url=stack.http_url, timeout=60) as client:
        answer = await client.post(f"/v1/{_endpoint(body)}", json={"model": TINY, **body})
    return dict(answer.json())


async def by_kafka(topics: Topics, body: Body) -> Body:
    def round_trip() -> Body:
        reader = topics.reader()
        try:
            receipts = topics.post({"model": TINY, **body})
            (results,) = topics.answers(reader, receipts, timeout_seconds=30).values()
        finally:
            reader.close()
        return dict(json.loads(results[0].value))

    return await asyncio.to_thread(round_trip)


def _endpoint(body: Body) -> str:
    return "chat/completions" if "messages" in body else "completions"


def said(answer: Body) -> tuple[Any, Any]:
    """What does not depend on when and under which id it was said, nor on whose prompt was in the cache by then."""
    assert "error" not in answer, answer
    choices = json.loads(json.dumps(answer["choices"]))
    for choice in choices:
        for call in choice.get("message", {}).get("tool_calls") or []:
            call.pop("id")
    return choices, {name: value for name, value in answer["usage"].items() if name != "prompt_tokens_details"}


def assert_alike(found: Any, expected: Any, path: str = "") -> None:
    """Equal, but for the last digits of log-probabilities, which depend on who else was in the batch."""
    if isinstance(expected, dict) and isinstance(found, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_alike(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_alike(*pair, f"{path}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-3), path
    else:
        assert found == expected, path


@pytest.mark.parametrize("name", ANSWERED)
async def test_the_same_is_said_by_every_way(
    name: str, stack: EmbeddedStack, topics: Topics, by_batch: dict[str, Body]
) -> None:
    over_http, over_kafka = await asyncio.gather(by_http(stack, ANSWERED[name]), by_kafka(topics, ANSWERED[name]))
    assert_alike(said(over_http), said(by_batch[name]))
    assert_alike(said(over_kafka), said(by_batch[name]))
    assert over_http["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("name", REFUSED)
async def test_the_same_is_refused_by_every_way_and_names_the_field(
    name: str, stack: EmbeddedStack, topics: Topics, by_batch: dict[str, Body]
) -> None:
    body, param = REFUSED[name]
    over_http, over_kafka = await asyncio.gather(by_http(stack, body), by_kafka(topics, body))
    errors = [answer["error"] for answer in (over_http, over_kafka, by_batch[name])]
    assert [error["param"] for error in errors] == [param] * 3
    assert len({(error["code"], error["message"]) for error in errors}) == 1
