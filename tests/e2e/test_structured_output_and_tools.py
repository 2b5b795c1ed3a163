"""Structured output, tool calls, bias and echo by the official client and by Kafka, against the whole stack."""

import asyncio
import json
import math
import secrets
from typing import Any

import openai
import pytest
from confluent_kafka import Producer

from services.cli.embedded.stack import EmbeddedStack
from shared.contracts import outcome_codec, request_codec
from shared.contracts.events import FinishReason, InferenceOutcome
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.requests import ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool, ToolChoice
from tests.fixtures.stack import TINY, Topics

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

QUESTION = [{"role": "user", "content": "Where does the water go?"}]
SCHEMA = {
    "type": "object",
    "properties": {"place": {"enum": ["turbine", "sea"]}, "cubic_metres": {"type": "integer", "maximum": 99}},
    "required": ["place", "cubic_metres"],
    "additionalProperties": False,
}
PARAMETERS = {"type": "object", "properties": {"gate": {"enum": ["north", "south"]}}, "required": ["gate"]}
PARAMETERS["additionalProperties"] = False
OPEN = {"type": "function", "function": {"name": "open_gate", "parameters": PARAMETERS}}
CLOSE = {"type": "function", "function": {"name": "close_gate", "parameters": PARAMETERS}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "flow", "schema": SCHEMA}}


@pytest.fixture
def client(stack: EmbeddedStack) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{stack.http_url}/v1", api_key="none", max_retries=0, timeout=60)


async def asked(topics: Topics, request: InferenceRequest) -> InferenceOutcome:
    """Posted in protobuf by a stranger's producer, read from the results."""
    event_id = secrets.token_hex(8).encode()

    def round_trip() -> bytes:
        reader = topics.reader()
        producer = Producer({"bootstrap.servers": topics.bootstrap_servers})
        headers = [("content-type", b"application/protobuf"), ("ce_id", event_id)]
        producer.produce(topics.requests, value=request_codec.encode_request(request), headers=headers)
        producer.flush(10)
        try:
            results = reader.results(timeout_seconds=30)
            return next(result.value for result in results if result.headers.get("ce_subject") == event_id)
        finally:
            reader.close()

    return outcome_codec.decode_outcome(await asyncio.to_thread(round_trip))


def is_flow(text: str | None) -> bool:
    value = json.loads(text or "")
    return value["place"] in ("turbine", "sea") and value["cubic_metres"] <= 99 and len(value) == 2


async def test_a_json_schema_gives_valid_json_in_every_choice(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=TINY, messages=QUESTION, response_format=FORMAT, n=3, seed=1, max_tokens=200
    )
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 3
    assert all(is_flow(choice.message.content) for choice in answer.choices)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 3


async def test_a_stream_held_to_a_schema_says_the_same(client: openai.AsyncOpenAI) -> None:
    body: dict[str, Any] = {"messages": QUESTION, "response_format": FORMAT, "seed": 4, "max_tokens": 200}
    whole = await client.chat.completions.create(model=TINY, **body)
    stream = await client.chat.completions.create(model=TINY, stream=True, **body)
    text = "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])
    assert text == whole.choices[0].message.content
    assert is_flow(text)


@pytest.mark.parametrize(
    ("structured", "words"),
    [
        ({"structured_outputs": {"choice": ["sluice", "weir"]}}, ["sluice", "weir"]),
        ({"structured_outputs": {"regex": "(ab){3}"}}, ["ababab"]),
        ({"guided_choice": ["sluice", "weir"]}, ["sluice", "weir"]),
        ({"guided_grammar": 'start: "pool"'}, ["pool"]),
    ],
)
async def test_structured_outputs_hold_a_completion(
    client: openai.AsyncOpenAI, structured: dict[str, Any], words: list[str]
) -> None:
    answer = await client.completions.create(model=TINY, prompt="The", max_tokens=30, extra_body=structured)
    assert answer.choices[0].text in words


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a{1000000000}"}, "guided_regex"),
        ({"guided_grammar": "start: A\nA: " + " & ".join(f"/.*a.{{{i}}}/" for i in range(12))}, "guided_grammar"),
        ({"guided_regex": "a" * 65_537}, "guided_regex"),
    ],
)
async def test_a_hostile_grammar_is_a_bad_request_in_time_and_delays_nobody(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str
) -> None:
    async with asyncio.timeout(30):
        hostile = asyncio.create_task(
            client.completions.create(model=TINY, prompt="The", max_tokens=9, extra_body=fields)
        )
        neighbour = await client.completions.create(model=TINY, prompt="The", max_tokens=9)
        with pytest.raises(openai.BadRequestError) as refusal:
            await hostile
    assert refusal.value.param == param
    assert neighbour.usage is not None


async def test_an_impossible_schema_is_a_bad_request_that_names_its_field(client: openai.AsyncOpenAI) -> None:
    impossible = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "enum": [1]}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.chat.completions.create(
                model=TINY, messages=QUESTION, response_format=impossible, stream=stream
            )
        assert refusal.value.param == "response_format"


async def test_a_required_tool_call_is_streamed(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=TINY, messages=QUESTION, tools=[OPEN, CLOSE], tool_choice="required", parallel_tool_calls=False,
        stream=True, max_tokens=200, seed=3,
    )  # fmt: skip
    names, arguments, ids, reasons, content = [], [], [], [], []
    async for chunk in stream:
        for choice in chunk.choices:
            reasons.append(choice.finish_reason)
            content.append(choice.delta.content or "")
            for call in choice.delta.tool_calls or ():
                assert call.index == 0
                assert call.function is not None
                names.append(call.function.name or "")
                arguments.append(call.function.arguments or "")
                ids.append(call.id or "")
    assert "".join(names) in ("open_gate", "close_gate")
    assert json.loads("".join(arguments))["gate"] in ("north", "south")
    assert "".join(ids).startswith("call_")
    assert "".join(content) == ""
    assert reasons[-1] == "tool_calls"


async def test_a_named_tool_is_called_by_every_choice_and_its_answer_is_understood(client: openai.AsyncOpenAI) -> None:
    body: dict[str, Any] = {
        "tools": [OPEN, CLOSE],
        "tool_choice": {"type": "function", "function": {"name": "close_gate"}},
        "n": 2,
        "max_tokens": 200,
    }
    answer = await client.chat.completions.create(model=TINY, messages=QUESTION, **body)
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert choice.message.tool_calls is not None
        assert [call.function.name for call in choice.message.tool_calls] == ["close_gate"]
    message = answer.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "closed"}
    after = await client.chat.completions.create(
        model=TINY, messages=[*QUESTION, message, result], tools=[OPEN], tool_choice="none", max_tokens=4
    )
    assert after.usage is not None
    assert after.choices[0].message.tool_calls is None


async def test_a_bias_decides_the_token(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model=TINY, prompt="A", max_tokens=3, logit_bias={"70": 100}, extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].token_ids == [70, 70, 70]  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_begins_with_the_prompt_and_scores_it(client: openai.AsyncOpenAI, stream: bool) -> None:
    prompt = "Events flow through topics"
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": 3, "echo": True, "logprobs": 2, "temperature": 0}
    if stream:
        chunks = [chunk async for chunk in await client.completions.create(model=TINY, stream=True, **body)]
        choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    else:
        choices = (await client.completions.create(model=TINY, **body)).choices
    text = "".join(choice.text for choice in choices)
    scores = [score for choice in choices if choice.logprobs for score in choice.logprobs.token_logprobs or ()]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.tokens or ()]
    assert text.startswith(prompt)
    assert len(text) > len(prompt)
    assert scores[0] is None
    assert all(score is not None and math.isfinite(score) and score <= 0 for score in scores[1:])
    assert "".join(tokens).startswith(prompt)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_is_scored_and_nothing_generated(client: openai.AsyncOpenAI, stream: bool) -> None:
    body: dict[str, Any] = {"prompt": "Events flow", "echo": True, "logprobs": 0}
    whole = (await client.completions.create(model=TINY, max_tokens=3, **body)).choices[0].logprobs
    if stream:
        chunks = [
            chunk async for chunk in await client.completions.create(model=TINY, stream=True, max_tokens=0, **body)
        ]
        (scored,) = [choice for chunk in chunks for choice in chunk.choices]
    else:
        answer = await client.completions.create(model=TINY, max_tokens=0, **body)
        (scored,) = answer.choices
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 0
    assert (scored.text, scored.finish_reason) == ("Events flow", "length")
    assert scored.logprobs is not None
    assert whole is not None
    assert scored.logprobs.tokens == whole.tokens[:-3]
    assert scored.logprobs.token_logprobs == pytest.approx(whole.token_logprobs[:-3], abs=1e-4)


async def test_the_best_of_many_choices_is_answered_and_all_are_counted(client: openai.AsyncOpenAI) -> None:
    body: dict[str, Any] = {"prompt": "Events flow", "max_tokens": 4, "seed": 8, "extra_body": {"ignore_eos": True}}
    every = await client.completions.create(model=TINY, n=6, logprobs=0, **body)
    best = await client.completions.create(model=TINY, n=2, best_of=6, **body)
    ranked = sorted(every.choices, key=lambda one: -sum(one.logprobs.token_logprobs))
    assert [one.text for one in best.choices] == [one.text for one in ranked[:2]]
    assert best.choices[0].logprobs is None
    assert every.usage is not None
    assert best.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens == 24
    with pytest.raises(openai.BadRequestError) as refusal:
        await client.completions.create(model=TINY, best_of=6, stream=True, **body)
    assert refusal.value.param == "best_of"


async def test_the_best_of_many_comes_back_by_kafka(topics: Topics) -> None:
    request = InferenceRequest(
        kind=RequestKind.COMPLETION,
        model=TINY,
        prompts=(Prompt(text="Events"), Prompt(text="flow")),
        sampling=SamplingParameters(max_tokens=3, ignore_eos=True),
        best_of=3,
    )
    result = await asked(topics, request)
    assert [choice.index for choice in result.choices] == [0, 1]
    assert all(choice.logprobs is None and len(choice.token_ids) == 3 for choice in result.choices)
    assert result.usage is not None
    assert result.usage.completion_tokens == 18


async def test_a_protobuf_request_with_a_grammar_comes_back_by_kafka(topics: Topics) -> None:
    request = InferenceRequest(
        kind=RequestKind.CHAT,
        model=TINY,
        messages=(ChatMessage(role="user", content="Where?"),),
        sampling=SamplingParameters(max_tokens=200),
        grammar=Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA)),
    )
    result = await asked(topics, request)
    assert is_flow(result.choices[0].text)


async def test_a_protobuf_request_with_tools_comes_back_by_kafka_as_calls(topics: Topics) -> None:
    request = InferenceRequest(
        kind=RequestKind.CHAT,
        model=TINY,
        messages=(ChatMessage(role="user", content="Open!"),),
        sampling=SamplingParameters(max_tokens=200),
        tools=(Tool(name="open_gate", parameters=json.dumps(PARAMETERS)),),
        tool_choice=ToolChoice.REQUIRED,
        parallel_tool_calls=False,
    )
    result = await asked(topics, request)
    (call,) = result.choices[0].tool_calls
    assert call.name == "open_gate"
    assert json.loads(call.arguments)["gate"] in ("north", "south")
    assert result.choices[0].finish_reason is FinishReason.TOOL_CALLS
