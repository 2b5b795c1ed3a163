"""One door for both formats: the same limits, the same two refusals."""

from dataclasses import replace
from typing import Any

import pytest

from shared.contracts.errors import InvalidRequest, PoisonMessage
from shared.contracts.generated.inference.v1 import requests_pb2
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.identifiers import RequestId
from shared.contracts.request_codec import encode_request
from shared.contracts.requests import (
    ChatMessage,
    Coordinates,
    HeaderProblem,
    InferenceRequest,
    Lane,
    Prompt,
    RequestEnvelope,
    RequestKind,
    WireFormat,
)
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool
from shared.openai.decoding import decode_value

JSON = RequestEnvelope(
    request_id=RequestId("0" * 32),
    pool="default",
    lane=Lane.INTERACTIVE,
    tenant="",
    wire_format=WireFormat.JSON,
    fingerprint="f",
    coordinates=Coordinates(topic="t", partition=1, offset=2, timestamp_ms=3),
)
PROTOBUF = replace(JSON, wire_format=WireFormat.PROTOBUF)
CHAT = InferenceRequest(
    kind=RequestKind.CHAT,
    model=None,
    messages=(ChatMessage(role="user", content="x"),),
    sampling=SamplingParameters(),
)
COMPLETION = replace(CHAT, kind=RequestKind.COMPLETION, messages=(), prompts=(Prompt(text="x"),))


def test_both_formats_give_the_same_request() -> None:
    from_json = decode_value(JSON, b'{"messages": [{"role": "user", "content": "x"}]}')
    assert from_json == decode_value(PROTOBUF, encode_request(CHAT)) == CHAT


def test_the_endpoint_of_the_envelope_decides_the_kind_of_json() -> None:
    envelope = replace(JSON, kind=RequestKind.COMPLETION)
    with pytest.raises(InvalidRequest) as caught:
        decode_value(envelope, b'{"messages": []}')
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("envelope", [JSON, PROTOBUF])
def test_a_record_without_a_value_is_poison(envelope: RequestEnvelope) -> None:
    with pytest.raises(PoisonMessage, match="no value"):
        decode_value(envelope, None)


@pytest.mark.parametrize(("is_poison", "error"), [(True, PoisonMessage), (False, InvalidRequest)])
def test_a_problem_of_the_headers_is_raised_with_their_name(is_poison: bool, error: type[Exception]) -> None:
    problem = HeaderProblem(header="penstock-priority", message="must be a number", is_poison=is_poison)
    with pytest.raises(error, match="must be a number") as caught:
        decode_value(replace(JSON, problem=problem), b"{}")
    assert caught.value.param == "penstock-priority"


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (replace(CHAT, messages=()), "messages"),
        (replace(CHAT, prompts=COMPLETION.prompts), "prompts"),
        (replace(CHAT, messages=(ChatMessage(role="wizard", content="x"),)), "messages[0].role"),
        (replace(CHAT, model=""), "model"),
        (replace(CHAT, model="m" * 257), "model"),
        (replace(CHAT, include_usage=True), "include_usage"),
        (replace(COMPLETION, prompts=()), "prompts"),
        (replace(COMPLETION, messages=CHAT.messages), "messages"),
        (replace(COMPLETION, prompts=(Prompt(text="a"), Prompt(text=""))), "prompts[1]"),
        (replace(COMPLETION, prompts=(Prompt(token_ids=()),)), "prompts[0]"),
        (replace(COMPLETION, prompts=(Prompt(token_ids=(2**32 - 1,)),)), "prompts[0]"),
        (replace(COMPLETION, prompts=COMPLETION.prompts * 129), "n"),
    ],
)
def test_a_bad_protobuf_body_is_refused_by_field(request_: InferenceRequest, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_value(PROTOBUF, encode_request(request_))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.5), ("temperature", float("nan")), ("temperature", float("inf")), ("top_p", 0.0),
        ("top_p", 1.5), ("min_p", -0.1), ("repetition_penalty", 0.0), ("frequency_penalty", 3.0),
        ("presence_penalty", float("-inf")), ("n", 0), ("n", 129), ("max_tokens", 0), ("max_tokens", 2**32 - 1),
        ("logprobs", 21), ("stop", ("",)), ("stop", ("x",) * 5), ("stop_token_ids", (2**32 - 1,)),
        ("min_tokens", 2**32 - 1), ("top_k", 2**32 - 1),
    ],
)  # fmt: skip
def test_protobuf_sampling_is_held_to_the_limits_of_json(field: str, value: object) -> None:
    request = replace(CHAT, sampling=replace(CHAT.sampling, **{field: value}))
    with pytest.raises(InvalidRequest, match=field.split("_")[0]) as caught:
        decode_value(PROTOBUF, encode_request(request))
    assert caught.value.param == field


def test_completions_have_fewer_logprobs_than_chats() -> None:
    sampling = replace(CHAT.sampling, logprobs=6)
    assert decode_value(PROTOBUF, encode_request(replace(CHAT, sampling=sampling))).sampling.logprobs == 6
    with pytest.raises(InvalidRequest, match="at most 5"):
        decode_value(PROTOBUF, encode_request(replace(COMPLETION, sampling=sampling)))


def test_fewer_tokens_than_the_minimum_are_a_contradiction() -> None:
    sampling = replace(CHAT.sampling, min_tokens=5, max_tokens=4)
    with pytest.raises(InvalidRequest) as caught:
        decode_value(PROTOBUF, encode_request(replace(CHAT, sampling=sampling)))
    assert caught.value.param == "min_tokens"


def test_a_negative_seed_is_made_one_the_engine_can_hold() -> None:
    message = requests_pb2.InferenceRequested.FromString(encode_request(CHAT))
    message.sampling.seed = -1
    request = decode_value(PROTOBUF, message.SerializeToString())
    assert request.has_own_seed
    assert request.sampling.seed == 2**63 - 1


COMPLETION_FIELDS: dict[str, Any] = {
    "kind": RequestKind.COMPLETION,
    "messages": (),
    "prompts": (Prompt(text="x"),),
}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({**COMPLETION_FIELDS, "best_of": 0}, "best_of"),
        ({**COMPLETION_FIELDS, "best_of": 129}, "best_of"),
        ({**COMPLETION_FIELDS, "best_of": 2, "stream": True, "include_usage": False}, "best_of"),
        ({**COMPLETION_FIELDS, "sampling": SamplingParameters(max_tokens=0)}, "max_tokens"),
        ({**COMPLETION_FIELDS, "tools": (Tool(name="f"),)}, "tools"),
        ({"tools": (Tool(name="f", parameters="[1]"),)}, "tools[0].function.parameters"),
        ({"tools": (Tool(name="f", parameters='{"a": "' + "x" * 70_000 + '"}'),)}, "tools"),
        ({"grammar": Grammar(kind=GrammarKind.CHOICE, text='[""]')}, "grammar"),
        ({"grammar": Grammar(kind=GrammarKind.CHOICE, text="no JSON")}, "grammar"),
        ({"sampling": SamplingParameters(logit_bias=((1, 200.0),))}, "logit_bias"),
        ({"sampling": SamplingParameters(logit_bias=((1, float("nan")),))}, "logit_bias"),
    ],
)  # fmt: skip
def test_what_a_protobuf_request_demands_of_its_output_is_held_to_the_same_limits(
    changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        decode_value(PROTOBUF, encode_request(replace(CHAT, **changes)))
    assert refusal.value.param == param
