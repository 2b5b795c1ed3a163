"""The releases of the mixed fleet differ in what they write, and this one reads all of it."""

import hashlib

import pytest

from shared.contracts import fleet_codec
from shared.contracts.events import Chunk, FinishReason, Outcome, SealedOutcome
from shared.contracts.headers import SCHEMA_VERSION
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import WireFormat
from shared.ledger import connection, scripts, wire
from shared.messaging import broker
from shared.openai import envelope, sealing
from tests.chaos.mixed_worker import NEXT, become_the_next_release, become_the_release_before
from tests.fakes.served_gateway import heartbeat

CHUNK = Chunk(choice=0, position=3, token_ids=(5, 6), text="ab", finish_reason=FinishReason.STOP)
SEALED = SealedOutcome(
    request_id=RequestId("0" * 32),
    outcome=Outcome.COMPLETED,
    wire_format=WireFormat.JSON,
    value=b"{}",
    headers=(("ce_id", b"1"),),
    reply_to=None,
    sealed_at_ms=7,
)


@pytest.fixture(autouse=True)
def _undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a release patches is put back after each test."""
    for module, name in (
        (connection, "load_script"),
        (envelope, "OURS"),
        (broker, "CONTROL_HEADERS"),
        (wire, "encode_chunk"),
        (wire, "encode_sealed"),
        (fleet_codec, "encode_heartbeat"),
        (sealing, "result_headers"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))


def test_what_the_next_release_writes_is_longer_and_read_here() -> None:
    ours = wire.encode_chunk(CHUNK), wire.encode_sealed(SEALED), fleet_codec.encode_heartbeat(heartbeat())
    become_the_next_release()
    theirs = wire.encode_chunk(CHUNK), wire.encode_sealed(SEALED), fleet_codec.encode_heartbeat(heartbeat())
    assert all(len(longer) > len(shorter) for longer, shorter in zip(theirs, ours, strict=True))
    assert wire.decode_chunks([theirs[0]]) == [CHUNK]
    assert wire.decode_sealed(theirs[1]) == SEALED
    assert fleet_codec.decode_heartbeat(theirs[2]) == heartbeat()
    assert envelope.OURS == NEXT
    assert dict(broker.CONTROL_HEADERS)[SCHEMA_VERSION] == str(NEXT).encode()


def test_each_release_keeps_its_own_scripts() -> None:
    become_the_next_release()
    newer = connection.load_script("claim")
    assert f"'{NEXT}'".encode() in newer.source
    assert b"'mood'" in newer.source
    become_the_release_before()
    older = connection.load_script("claim")
    assert b"'schema', SCHEMA" not in older.source
    assert SCHEMA_VERSION not in dict(broker.CONTROL_HEADERS)
    assert len({script.sha1 for script in (newer, older, scripts.load_script("claim"))}) == 3
    assert older.sha1 == hashlib.sha1(older.source, usedforsecurity=False).hexdigest().encode()
