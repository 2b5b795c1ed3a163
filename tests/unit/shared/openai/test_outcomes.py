"""Results as OpenAI's objects, read back by OpenAI's own client types."""

import json
import math
from dataclasses import replace

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from shared.contracts.errors import CapacityError, PlatformError, PoisonMessage, error_classes
from shared.contracts.events import (
    ChoiceResult,
    ErrorBody,
    FinishReason,
    InferenceOutcome,
    Outcome,
    SealedOutcome,
    TokenLogprob,
    Usage,
)
from shared.contracts.identifiers import RequestId
from shared.contracts.outcome_codec import encode_outcome
from shared.contracts.requests import RequestKind, WireFormat
from shared.openai.outcomes import (
    object_id,
    outcome_error,
    render_error,
    render_outcome,
    request_id_of,
    sealed_json,
    sealed_summary,
)

REQUEST_ID = RequestId("0123456789abcdef0123456789abcdef")
USAGE = Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=4)
TOKENS = (
    TokenLogprob(token_id=5, text="Grü", logprob=-0.5, top=((5, "Grü", -0.5), (9, "on", -2.0))),
    TokenLogprob(token_id=6, text="ße", logprob=-math.inf, top=((9, "on", -1.0),)),
)
CHOICE = ChoiceResult(index=0, text="Grüße", token_ids=(5, 6), finish_reason=FinishReason.STOP, logprobs=TOKENS)
CHAT = InferenceOutcome(
    request_id=REQUEST_ID,
    outcome=Outcome.COMPLETED,
    kind=RequestKind.CHAT,
    model="smollm2",
    created_seconds=1_764_000_000,
    choices=(CHOICE, replace(CHOICE, index=1, text="", finish_reason=FinishReason.LENGTH)),
    usage=USAGE,
)
COMPLETION = replace(CHAT, kind=RequestKind.COMPLETION)
ERROR = ErrorBody(message="no", type="server_error", code="engine_failed")


def sealed(value: bytes, wire_format: WireFormat = WireFormat.JSON) -> SealedOutcome:
    return SealedOutcome(
        request_id=REQUEST_ID,
        outcome=Outcome.COMPLETED,
        wire_format=wire_format,
        value=value,
        headers=(),
        reply_to=None,
        sealed_at_ms=1,
    )


def test_a_chat_is_what_the_openai_client_expects() -> None:
    answer = ChatCompletion.model_validate(json.loads(render_outcome(CHAT)), strict=True)
    assert answer.id == f"chatcmpl-{REQUEST_ID}"
    assert (answer.object, answer.created, answer.model) == ("chat.completion", 1_764_000_000, "smollm2")
    assert [choice.message.content for choice in answer.choices] == ["Grüße", ""]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length"]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].logprobs is None
    assert answer.usage.total_tokens == 9
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


def test_a_completion_is_what_the_openai_client_expects() -> None:
    answer = Completion.model_validate(json.loads(render_outcome(COMPLETION)), strict=True)
    assert answer.id == f"cmpl-{REQUEST_ID}"
    assert answer.object == "text_completion"
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "Grüße"), (1, "")]
    assert answer.choices[1].finish_reason == "length"
    assert answer.usage.completion_tokens == 2


def test_chat_logprobs_have_bytes_and_alternatives() -> None:
    rendered = render_outcome(replace(CHAT, wants_logprobs=True))
    first, second = ChatCompletion.model_validate(json.loads(rendered)).choices[0].logprobs.content
    assert (first.token, first.logprob, bytes(first.bytes).decode()) == ("Grü", -0.5, "Grü")
    assert [(other.token, other.logprob) for other in first.top_logprobs] == [("Grü", -0.5), ("on", -2.0)]
    assert second.logprob == -9999.0


def test_completion_logprobs_have_offsets_and_the_chosen_token_among_the_top() -> None:
    rendered = render_outcome(replace(COMPLETION, wants_logprobs=True))
    logprobs = Completion.model_validate(json.loads(rendered)).choices[0].logprobs
    assert logprobs.tokens == ["Grü", "ße"]
    assert logprobs.token_logprobs == [-0.5, -9999.0]
    assert logprobs.text_offset == [0, 3]
    assert logprobs.top_logprobs == [{"Grü": -0.5, "on": -2.0}, {"on": -1.0, "ße": -9999.0}]


def test_logprobs_of_an_empty_answer_are_an_empty_list() -> None:
    empty = replace(CHAT, choices=(replace(CHOICE, logprobs=None),), wants_logprobs=True)
    logprobs = json.loads(render_outcome(empty))["choices"][0]["logprobs"]
    assert logprobs == {"content": [], "refusal": None}


@pytest.mark.parametrize("outcome", [CHAT, COMPLETION])
def test_token_ids_are_given_only_when_asked_for(outcome: InferenceOutcome) -> None:
    asked = json.loads(render_outcome(replace(outcome, return_token_ids=True)))
    assert [choice["token_ids"] for choice in asked["choices"]] == [[5, 6], [5, 6]]
    assert "token_ids" not in render_outcome(outcome).decode()


@pytest.mark.parametrize("outcome", [kind for kind in Outcome if kind is not Outcome.COMPLETED])
def test_every_other_outcome_is_an_error_object(outcome: Outcome) -> None:
    rendered = json.loads(render_outcome(replace(CHAT, outcome=outcome, error=ERROR)))
    assert rendered["error"] == {"message": "no", "type": "server_error", "param": None, "code": "engine_failed"}
    assert rendered["usage"]["completion_tokens"] == 2, "the usage so far"
    assert rendered.keys() == {"error", "usage"}


def test_an_error_before_anything_was_used_says_nothing_of_usage() -> None:
    rendered = json.loads(render_outcome(replace(CHAT, outcome=Outcome.FAILED, error=ERROR, usage=None)))
    assert rendered.keys() == {"error"}


@pytest.mark.parametrize("error_class", error_classes().values(), ids=lambda error: error.__name__)
def test_every_error_has_a_rendering(error_class: type[PlatformError]) -> None:
    extra = {"retry_after_seconds": 1.0} if issubclass(error_class, CapacityError) else {}
    body = outcome_error(error_class("why", param="seed", **extra))
    rendered = json.loads(render_error(body))["error"]
    assert rendered == {"message": "why", "type": body.type, "param": "seed", "code": error_class.code}
    assert rendered["type"] in {
        "invalid_request_error", "authentication_error", "rate_limit_error", "server_error",
    }  # fmt: skip


@pytest.mark.parametrize("kind", RequestKind)
def test_the_request_id_is_found_in_the_id_of_an_object(kind: RequestKind) -> None:
    assert request_id_of(object_id(kind, REQUEST_ID)) == REQUEST_ID
    assert request_id_of(REQUEST_ID) == REQUEST_ID


class TestSealed:
    def test_json_is_answered_as_it_was_sealed(self) -> None:
        assert sealed_json(sealed(b'{"odd": 1}')) == b'{"odd": 1}'

    def test_protobuf_is_rendered_for_http(self) -> None:
        value = encode_outcome(CHAT)
        assert sealed_json(sealed(value, WireFormat.PROTOBUF)) == render_outcome(CHAT)

    def test_both_formats_have_the_same_summary(self) -> None:
        for outcome, summary in (
            (COMPLETION, (USAGE, None)),
            (replace(CHAT, outcome=Outcome.FAILED, error=ERROR, usage=None), (None, ERROR)),
        ):
            assert sealed_summary(sealed(render_outcome(outcome))) == summary
            assert sealed_summary(sealed(encode_outcome(outcome), WireFormat.PROTOBUF)) == summary

    @pytest.mark.parametrize("value", [b"", b"[]", b"\xff", b'{"usage": 7}', b'{"error": {}}'])
    @pytest.mark.parametrize("wire_format", WireFormat)
    def test_bytes_of_somebody_else_are_poison(self, value: bytes, wire_format: WireFormat) -> None:
        with pytest.raises(PoisonMessage):
            sealed_summary(sealed(value, wire_format))


def test_what_was_drafted_is_told_only_where_something_was() -> None:
    drafted = replace(CHAT, usage=replace(USAGE, accepted_prediction_tokens=3, rejected_prediction_tokens=1))
    details = json.loads(render_outcome(drafted))["usage"]["completion_tokens_details"]
    assert details == {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 1}
    assert "completion_tokens_details" not in json.loads(render_outcome(CHAT))["usage"]
    assert sealed_summary(sealed(render_outcome(drafted)))[0] == drafted.usage
