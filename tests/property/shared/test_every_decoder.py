"""Arbitrary bytes to every decoder of the platform: a value or the decoder's own refusal, never another exception.

The list is complete by test: a decoder that is added without a row here fails.
"""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.embedded.stored_span import NotTraces, decode_spans
from services.gateway.server_sent_events import parse_event_id
from services.gateway.tenant_limits import InvalidTenantLimits, parse_tenant_limits, parse_tenant_weights
from services.worker.engine_process import decode_config
from services.worker.frames import BrokenFrame, FrameReader
from services.worker.offline.batch_lines import read_line
from shared.contracts import api_key_codec, fleet_codec, outcome_codec, request_codec
from shared.contracts.errors import InvalidRequest, PlatformError, PoisonMessage
from shared.contracts.requests import RequestKind
from shared.contracts.schema_version import parse_version
from shared.ledger import wire
from shared.messaging.offset_tracker import decode_finished
from shared.openai.requests import parse_request
from tests.golden_messages import GOLDEN

ROOT = Path(__file__).parents[3]
SOURCES = ("shared", "services/gateway", "services/worker/frames.py", "services/worker/engine_process.py")

Decode = Callable[[bytes], Any]


def as_text(decode: Callable[[str], Any]) -> Decode:
    return lambda data: decode(data.decode("utf-8", "surrogateescape"))


_FOREIGN_BYTES = (msgspec.MsgspecError, UnicodeDecodeError)
DECODERS: dict[str, tuple[Decode, tuple[type[Exception], ...]]] = {
    "decode_request": (request_codec.decode_request, (PoisonMessage, InvalidRequest)),
    "decode_cancellation": (request_codec.decode_cancellation, (PoisonMessage,)),
    "decode_outcome": (outcome_codec.decode_outcome, (PoisonMessage,)),
    "decode_api_key": (api_key_codec.decode_api_key, (PoisonMessage,)),
    "decode_heartbeat": (fleet_codec.decode_heartbeat, (PoisonMessage,)),
    "decode_fleet_event": (fleet_codec.decode_fleet_event, (PoisonMessage,)),
    "decode_fleet_command": (fleet_codec.decode_fleet_command, (PoisonMessage,)),
    "parse_request": (
        lambda data: parse_request(data, kind=RequestKind.CHAT),
        (PoisonMessage, InvalidRequest),
    ),
    "decode_finished": (as_text(lambda text: decode_finished(7, text)), ()),
    "parse_tenant_limits": (as_text(parse_tenant_limits), (InvalidTenantLimits,)),
    "parse_tenant_weights": (as_text(parse_tenant_weights), (InvalidTenantLimits,)),
    "parse_version": (as_text(parse_version), ()),
    "parse_event_id": (as_text(parse_event_id), (InvalidRequest,)),
    # What follows is read from our own processes only; a refusal by its library is answered by the loop around it.
    "decode_chunks": (lambda data: wire.decode_chunks([data]), _FOREIGN_BYTES),
    "decode_sealed": (wire.decode_sealed, _FOREIGN_BYTES),
    "decode_message": (wire.decode_message, _FOREIGN_BYTES),
    "decode_origin": (wire.decode_origin, _FOREIGN_BYTES),
    "decode_config": (lambda data: decode_config(data.decode("utf-8", "replace")), _FOREIGN_BYTES),
    "FrameReader.feed": (lambda data: FrameReader().feed(data), (BrokenFrame,)),
    "read_line": (lambda data: read_line(1, data), (PlatformError,)),
    "decode_spans": (decode_spans, (NotTraces,)),
}
ELSEWHERE = {"decode_value", "parse_api_keys"}
"""`decode_value` has a test of its own (test_hostile_requests); the setting is read once, at the start."""

damaged = st.sampled_from(sorted(GOLDEN)).flatmap(
    lambda name: st.tuples(st.integers(0, 400), st.integers(0, 255)).map(
        lambda change: _with_byte(GOLDEN[name][1](GOLDEN[name][0]), *change)
    )
)


def _with_byte(message: bytes, place: int, value: int) -> bytes:
    """A real message with one byte changed, or cut there."""
    place %= len(message)
    return message[:place] + bytes([value]) + message[place + 1 :] if value else message[:place]


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=400) | damaged | st.text(max_size=60).map(lambda text: text.encode()))
def test_any_bytes_are_a_value_or_a_refusal(name: str, data: bytes) -> None:
    decode, refusals = DECODERS[name]
    with contextlib.suppress(*refusals):
        decode(data)


def test_no_decoder_is_missing_here() -> None:
    files = [
        path
        for place in SOURCES
        for path in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))
        if "generated" not in path.parts
    ]
    found = {
        name
        for path in files
        for name in re.findall(r"^(?:async )?def ((?:decode|parse)_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert found - set(DECODERS) == ELSEWHERE
