"""The bytes of an outcome: decided by the arguments alone, never larger than a record may be."""

import json
from dataclasses import replace

import pytest

from shared.contracts.events import ChoiceResult, FinishReason, InferenceOutcome, Outcome, Usage
from shared.contracts.outcome_codec import decode_outcome
from shared.contracts.requests import Coordinates, Lane, RequestEnvelope, RequestKind, WireFormat
from shared.openai.outcomes import render_outcome
from shared.openai.sealing import record_bytes, seal_outcome
from tests.golden_messages import OUTCOME

LIMIT = 10_000
NOW_MS = 1_764_000_000_123
ENVELOPE = RequestEnvelope(
    request_id=OUTCOME.request_id,
    pool="default",
    lane=Lane.INTERACTIVE,
    tenant="acme",
    wire_format=WireFormat.JSON,
    fingerprint="f",
    coordinates=Coordinates(topic="t", partition=1, offset=2, timestamp_ms=3),
    reply_to="answers",
    key=b"route",
    foreign_headers=(("x-own", b"\xff"),),
)


def completed(text: str = "hello") -> InferenceOutcome:
    choice = ChoiceResult(index=0, text=text, token_ids=(1,), finish_reason=FinishReason.STOP)
    return InferenceOutcome(
        request_id=ENVELOPE.request_id,
        outcome=Outcome.COMPLETED,
        kind=RequestKind.CHAT,
        model="m",
        created_seconds=1_764_000_000,
        choices=(choice,),
        usage=Usage(prompt_tokens=1, completion_tokens=1),
    )


@pytest.mark.parametrize("wire_format", WireFormat)
def test_equal_arguments_give_equal_bytes(wire_format: WireFormat) -> None:
    envelope = replace(ENVELOPE, wire_format=wire_format)
    first, second = (seal_outcome(envelope, completed(), sealed_at_ms=NOW_MS, max_bytes=LIMIT) for _ in range(2))
    assert first == second
    assert (first.sealed_at_ms, first.reply_to, first.wire_format) == (NOW_MS, "answers", wire_format)


def test_a_json_request_is_answered_in_json() -> None:
    sealed = seal_outcome(ENVELOPE, completed(), sealed_at_ms=NOW_MS, max_bytes=LIMIT)
    assert sealed.value == render_outcome(completed())
    assert dict(sealed.headers)["content-type"] == b"application/json"


def test_a_protobuf_request_is_answered_in_protobuf() -> None:
    envelope = replace(ENVELOPE, wire_format=WireFormat.PROTOBUF)
    sealed = seal_outcome(envelope, completed(), sealed_at_ms=NOW_MS, max_bytes=LIMIT)
    assert decode_outcome(sealed.value) == completed()
    assert dict(sealed.headers)["content-type"] == b"application/protobuf"


def test_trace_headers_are_carried() -> None:
    sealed = seal_outcome(
        ENVELOPE, completed(), sealed_at_ms=1, max_bytes=LIMIT, trace_headers=(("traceparent", "00-x"),)
    )
    assert dict(sealed.headers)["traceparent"] == b"00-x"


def test_an_outcome_of_exactly_the_limit_fits() -> None:
    whole = seal_outcome(ENVELOPE, completed("x" * 5_000), sealed_at_ms=NOW_MS, max_bytes=1_000_000)
    size = record_bytes(whole.value, whole.headers)
    assert seal_outcome(ENVELOPE, completed("x" * 5_000), sealed_at_ms=NOW_MS, max_bytes=size) == whole
    smaller = seal_outcome(ENVELOPE, completed("x" * 5_000), sealed_at_ms=NOW_MS, max_bytes=size - 1)
    assert smaller.outcome is Outcome.FAILED


@pytest.mark.parametrize("wire_format", WireFormat)
def test_one_that_is_too_large_becomes_a_small_failed_one(wire_format: WireFormat) -> None:
    envelope = replace(ENVELOPE, wire_format=wire_format)
    sealed = seal_outcome(envelope, completed("x" * LIMIT), sealed_at_ms=NOW_MS, max_bytes=LIMIT)
    assert sealed.outcome is Outcome.FAILED
    assert record_bytes(sealed.value, sealed.headers) <= LIMIT
    assert dict(sealed.headers)["ce_type"] == b"penstock.inference.failed.v1"
    assert dict(sealed.headers)["x-own"] == b"\xff"
    if wire_format is WireFormat.JSON:
        error = json.loads(sealed.value)["error"]
        assert error["code"] == "outcome_too_large"
        assert str(LIMIT) in error["message"]
    else:
        outcome = decode_outcome(sealed.value)
        assert outcome.error.code == "outcome_too_large"
        assert outcome.usage == Usage(prompt_tokens=1, completion_tokens=1)


def test_headers_that_fill_a_record_alone_are_left_out() -> None:
    envelope = replace(ENVELOPE, foreign_headers=(("x-own", b"x" * LIMIT),), key=b"k" * LIMIT)
    sealed = seal_outcome(envelope, completed(), sealed_at_ms=NOW_MS, max_bytes=LIMIT)
    assert record_bytes(sealed.value, sealed.headers) <= LIMIT
    assert dict(sealed.headers)["ce_id"] == ENVELOPE.request_id.encode()
    assert sealed.outcome is Outcome.FAILED


def test_an_outcome_of_another_request_is_never_sealed() -> None:
    envelope = replace(ENVELOPE, request_id="0" * 32)
    with pytest.raises(AssertionError, match="another request"):
        seal_outcome(envelope, completed(), sealed_at_ms=1, max_bytes=LIMIT)
