"""The wire format, byte by byte: golden messages, strangers' messages, damaged messages."""

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

from shared.contracts import fleet_codec, outcome_codec, request_codec
from shared.contracts.errors import PoisonMessage
from shared.contracts.events import Outcome
from shared.contracts.fleet import FleetCommandKind, FleetEventKind, WorkerState
from shared.contracts.generated.inference.v1 import requests_pb2, results_pb2
from shared.contracts.requests import RequestKind
from shared.contracts.sampling import SamplingParameters
from tests.golden_messages import CANCELLATION, CHAT, COMPLETION, GOLDEN

GOLDEN_BYTES = json.loads((Path(__file__).parents[3] / "golden" / "messages.json").read_text())
UNKNOWN_FIELD = b"\xfa\x3f\x03new"
"""Field 1023, length-delimited: what a newer producer may add."""
REQUEST_ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_of_a_message_have_not_changed(name: str) -> None:
    value, encode, _ = GOLDEN[name]
    assert encode(value).hex() == GOLDEN_BYTES[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_committed_bytes_still_decode_to_the_same_value(name: str) -> None:
    value, _, decode = GOLDEN[name]
    assert decode(bytes.fromhex(GOLDEN_BYTES[name])) == value


def test_every_golden_message_is_committed_and_nothing_else() -> None:
    assert set(GOLDEN_BYTES) == set(GOLDEN)


def _fields_at_default(value: object, where: str) -> list[str]:
    """Fields that a lost value would not be noticed in, by path."""
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return _fields_at_default(value[0], f"{where}[0]")
    if not is_dataclass(value):
        return []
    found = []
    for field in fields(value):
        content = getattr(value, field.name)
        default = None if field.default is MISSING else field.default
        empty = () if default else (0, "", (), None)
        if content in (default, *empty):
            found.append(f"{where}.{field.name}")
        found += _fields_at_default(content, f"{where}.{field.name}")
    return found


def test_the_golden_messages_leave_no_field_at_its_default() -> None:
    """A field added to a dataclass fails here, and once set in the golden message, in the round trip above."""
    left = [
        path
        for name, (value, _, _) in GOLDEN.items()
        if value is not COMPLETION
        for path in _fields_at_default(value, name)
    ]
    # A chat has no prompts; they are in the golden completion.
    assert left == ["InferenceRequested chat.prompts"]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_field_of_the_future_is_skipped(name: str) -> None:
    value, encode, decode = GOLDEN[name]
    assert decode(encode(value) + UNKNOWN_FIELD) == value


@pytest.mark.parametrize("name", GOLDEN)
def test_no_value_is_poison(name: str) -> None:
    with pytest.raises(PoisonMessage, match="no value"):
        GOLDEN[name][2](None)


@pytest.mark.parametrize("name", GOLDEN)
def test_bytes_of_another_format_are_poison_that_names_the_message(name: str) -> None:
    with pytest.raises(PoisonMessage, match=name.split()[0]):
        GOLDEN[name][2](b"\xff\xff\xff\xff")


def test_a_request_with_nothing_but_a_message_has_the_defaults_of_openai() -> None:
    body = requests_pb2.InferenceRequested(messages=[requests_pb2.ChatMessage(role="user", content="x")])
    request = request_codec.decode_request(body.SerializeToString())
    assert request.kind is RequestKind.CHAT
    assert request.sampling == SamplingParameters()
    assert request.model is None
    assert not request.has_own_seed


def test_a_request_without_a_kind_that_has_prompts_is_a_completion() -> None:
    body = requests_pb2.InferenceRequested(prompts=[requests_pb2.Prompt(text="x")])
    assert request_codec.decode_request(body.SerializeToString()).kind is RequestKind.COMPLETION


def test_explicit_zeros_are_not_taken_for_defaults() -> None:
    body = requests_pb2.InferenceRequested(
        sampling=requests_pb2.SamplingParameters(temperature=0, top_p=0, n=0, seed=0, logprobs=0, max_tokens=0)
    )
    request = request_codec.decode_request(body.SerializeToString())
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.n) == (0, 0, 0)
    assert (sampling.logprobs, sampling.max_tokens) == (0, 0)
    assert request.has_own_seed


def test_a_derived_seed_does_not_travel() -> None:
    encoded = request_codec.encode_request(COMPLETION)
    assert not requests_pb2.InferenceRequested.FromString(encoded).sampling.HasField("seed")
    assert requests_pb2.InferenceRequested.FromString(request_codec.encode_request(CHAT)).sampling.seed == 42


@pytest.mark.parametrize(("field", "number"), [("outcome", 99), ("kind", 98), ("outcome", 0)])
def test_an_enumeration_value_we_do_not_know_is_poison(field: str, number: int) -> None:
    message = results_pb2.InferenceOutcome(outcome=1, kind=1)
    setattr(message, field, number)
    with pytest.raises(PoisonMessage, match=str(number)):
        outcome_codec.decode_outcome(message.SerializeToString())


@pytest.mark.parametrize(
    ("members", "wire"),
    [
        (Outcome, results_pb2.Outcome),
        (RequestKind, requests_pb2.RequestKind),
        (WorkerState, fleet_codec.fleet_pb2.WorkerState),
        (FleetEventKind, fleet_codec.fleet_pb2.FleetEventKind),
        (FleetCommandKind, fleet_codec.fleet_pb2.FleetCommandKind),
    ],
)
def test_an_enumeration_has_the_same_members_here_and_on_the_wire(members: type, wire: object) -> None:
    assert len(wire.keys()) == len(members) + 1  # UNSPECIFIED


class TestCancellation:
    def test_plain_json_is_understood(self) -> None:
        body = {"request_id": REQUEST_ID, "tenant": "acme", "reason": "changed my mind"}
        assert request_codec.decode_cancellation(json.dumps(body).encode()) == CANCELLATION

    def test_json_needs_nothing_but_the_id(self) -> None:
        cancellation = request_codec.decode_cancellation(b' {"request_id": "%s"}' % REQUEST_ID.encode())
        assert (cancellation.request_id, cancellation.tenant, cancellation.reason) == (REQUEST_ID, None, "")

    @pytest.mark.parametrize("prefix", ["chatcmpl-", "cmpl-"])
    def test_the_id_of_a_response_object_is_understood(self, prefix: str) -> None:
        encoded = request_codec.encode_cancellation(prefix + REQUEST_ID, None, "")
        assert request_codec.decode_cancellation(encoded).request_id == REQUEST_ID

    @pytest.mark.parametrize(
        "value",
        [
            b"{",
            b"{}",
            b'{"request_id": 7}',
            b'{"request_id": "xyz"}',
            b'{"request_id": "%s", "tenant": 1}' % REQUEST_ID.encode(),
            b'{"request_id": "%s", "reason": ["a"]}' % REQUEST_ID.encode(),
            b'{"request_id": "%s", "reason": "\\ud800"}' % REQUEST_ID.encode(),
            b'{"a":' * 100_000,
            b"",
            b'{"\xff": 1}',
        ],
    )
    def test_anything_else_is_poison(self, value: bytes) -> None:
        with pytest.raises(PoisonMessage):
            request_codec.decode_cancellation(value)
