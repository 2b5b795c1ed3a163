"""Whatever arrives, it is a request, a named refusal or poison, never another exception."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import InvalidRequest, PoisonMessage
from shared.contracts.events import InferenceOutcome, Outcome
from shared.contracts.request_codec import encode_request
from shared.contracts.requests import InferenceRequest, Lane, RequestKind, WireFormat
from shared.contracts.topics import TopicNames
from shared.openai.decoding import decode_value
from shared.openai.envelope import copy_headers, read_envelope
from shared.openai.limits import check_request
from shared.openai.outcomes import outcome_error, render_error
from shared.openai.requests import parse_request
from shared.openai.schema import ChatBody, CompletionBody
from shared.openai.sealing import seal_outcome
from tests import contract_strategies as some
from tests.contract_strategies import FakeRecord

NAMES = TopicNames()
FIELDS = sorted(set(ChatBody.model_fields) | set(CompletionBody.model_fields))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | some.texts | st.sampled_from(["user", "text", "none"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(some.texts, inner, max_size=4),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(FIELDS) | some.texts, json_values, max_size=6)
kinds = st.none() | st.sampled_from(RequestKind)
topics = st.sampled_from(
    [
        NAMES.requests("default", Lane.INTERACTIVE),
        NAMES.requests("default", Lane.BULK),
        NAMES.resume("default"),
        "inference.requests.default.retry.10s",
        "elsewhere",
    ]
)


def assert_answerable(body: bytes, kind: RequestKind | None) -> None:
    try:
        request = parse_request(body, kind=kind)
    except (InvalidRequest, PoisonMessage) as refusal:
        error = outcome_error(refusal)
    else:
        check_request(request)  # what JSON lets through, the limits let through
        encode_request(request)
        return
    assert error.message
    assert error.param is not None or error.code == PoisonMessage.code
    assert render_error(error)


@given(body=st.binary(max_size=300), kind=kinds)
def test_arbitrary_bytes_are_answerable(body: bytes, kind: RequestKind | None) -> None:
    assert_answerable(body, kind)


@given(body=bodies, kind=kinds)
def test_arbitrary_objects_are_answerable(body: dict[str, object], kind: RequestKind | None) -> None:
    assert_answerable(json.dumps(body).encode(), kind)


@given(body=bodies, field=st.sampled_from(FIELDS), value=json_values)
def test_one_arbitrary_field_in_a_good_body_is_answerable(body: dict[str, object], field: str, value: object) -> None:
    good = {"messages": [{"role": "user", "content": "x"}]}
    assert_answerable(json.dumps(good | {field: value}).encode(), None)
    assert_answerable(json.dumps({"prompt": "x"} | {field: value}).encode(), RequestKind.COMPLETION)


@given(request=some.requests())
def test_every_legal_request_passes_the_limits_of_both_formats(request: InferenceRequest) -> None:
    record = FakeRecord(value=encode_request(request), headers=(("content-type", b"application/protobuf"),))
    envelope = read_envelope(record, names=NAMES, pool="default", cluster="test")
    assert decode_value(envelope, record.value) == request


@given(topic=topics, headers=some.headers, key=st.none() | st.binary(max_size=5), value=st.none() | st.binary())
def test_whatever_the_headers_are_there_is_an_answer(
    topic: str, headers: tuple[tuple[str, bytes | None], ...], key: bytes | None, value: bytes | None
) -> None:
    record = FakeRecord(topic=topic, headers=headers, key=key, value=value)
    envelope = read_envelope(record, names=NAMES, pool="default", cluster="test")
    outcome = InferenceOutcome(
        request_id=envelope.request_id,
        outcome=Outcome.COMPLETED,
        kind=RequestKind.CHAT,
        model="m",
        created_seconds=1,
    )
    sealed = seal_outcome(envelope, outcome, sealed_at_ms=1_764_000_000_000, max_bytes=100_000)
    assert sealed == seal_outcome(envelope, outcome, sealed_at_ms=1_764_000_000_000, max_bytes=100_000)
    for foreign in envelope.foreign_headers:
        assert foreign in sealed.headers
    with pytest.raises((InvalidRequest, PoisonMessage)):
        decode_value(envelope, value if envelope.wire_format is WireFormat.JSON else b"\xff")


@given(headers=some.headers, key=st.none() | st.binary(max_size=5), lane=st.sampled_from(Lane))
def test_a_copy_reads_as_its_original_did(
    headers: tuple[tuple[str, bytes | None], ...], key: bytes | None, lane: Lane
) -> None:
    original = FakeRecord(topic=NAMES.requests("default", lane), headers=headers, key=key, value=b"{}")
    read = read_envelope(original, names=NAMES, pool="default", cluster="test")
    copy = FakeRecord(
        topic=NAMES.resume("default"),
        partition=0,
        offset=9_000,
        timestamp_ms=7,
        key=read.request_id.encode(),
        headers=copy_headers(read, original.headers),
        value=original.value,
    )
    assert read_envelope(copy, names=NAMES, pool="default", cluster="test") == read
    again = FakeRecord(topic=copy.topic, headers=copy_headers(read, copy.headers), value=copy.value)
    assert read_envelope(again, names=NAMES, pool="default", cluster="test") == read
