"""Every message survives its encoding, and no bytes raise anything but PoisonMessage."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import fleet_codec, outcome_codec, request_codec
from shared.contracts.errors import PoisonMessage
from shared.contracts.events import InferenceOutcome
from shared.contracts.fleet import FleetCommand, FleetEvent, Heartbeat
from shared.contracts.requests import Cancellation, InferenceRequest
from tests import contract_strategies as some


def encode_cancellation(value: Cancellation) -> bytes:
    return request_codec.encode_cancellation(value.request_id, value.tenant, value.reason)


MESSAGES = {
    InferenceRequest: (some.requests(), request_codec.encode_request, request_codec.decode_request),
    InferenceOutcome: (some.outcomes, outcome_codec.encode_outcome, outcome_codec.decode_outcome),
    Cancellation: (some.cancellations, encode_cancellation, request_codec.decode_cancellation),
    Heartbeat: (some.heartbeats, fleet_codec.encode_heartbeat, fleet_codec.decode_heartbeat),
    FleetEvent: (some.fleet_events, fleet_codec.encode_fleet_event, fleet_codec.decode_fleet_event),
    FleetCommand: (some.fleet_commands, fleet_codec.encode_fleet_command, fleet_codec.decode_fleet_command),
}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
@given(data=st.data())
def test_every_message_survives_its_encoding(message: type, data: st.DataObject) -> None:
    strategy, encode, decode = MESSAGES[message]
    value = data.draw(strategy)
    assert decode(encode(value)) == value


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
@given(value=st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_poison(message: type, value: bytes) -> None:
    decode = MESSAGES[message][2]
    with suppress(PoisonMessage):
        assert isinstance(decode(value), message)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
@given(data=st.data())
def test_a_damaged_message_decodes_or_is_poison(message: type, data: st.DataObject) -> None:
    strategy, encode, decode = MESSAGES[message]
    damaged = bytearray(encode(data.draw(strategy)))
    for _ in range(data.draw(st.integers(1, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(PoisonMessage):
        assert isinstance(decode(bytes(damaged)), message)


def test_a_missing_value_is_poison() -> None:
    for _, _, decode in MESSAGES.values():
        with pytest.raises(PoisonMessage, match="no value"):
            decode(None)
