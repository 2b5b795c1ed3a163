"""A worker of the release that its number says: `python -P -m tests.chaos.mixed_worker`, name `<pool>-<number>`.

By number modulo three: this release; the next one, whose records and ledger keys have a newer minor version and
fields that this one does not know; and the one before versions were written. The services know nothing of it.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache

import msgpack

import services.worker.__main__ as worker
from shared.contracts import fleet_codec
from shared.contracts.fleet import Heartbeat
from shared.contracts.headers import SCHEMA_VERSION
from shared.contracts.schema_version import OURS, SchemaVersion
from shared.ledger import connection, scripts, wire
from shared.messaging import broker
from shared.openai import envelope, sealing

NEXT = SchemaVersion(OURS.major, OURS.minor + 1)
_UNKNOWN_FIELD = b"\xb8\x3e\x01"
"""Protobuf: field 999, the number 1."""
_SCHEMA_CONSTANT = f"SCHEMA = 1, '{OURS}'".encode()
_WRITES_SCHEMA = b", 'schema', SCHEMA)"


def _rewritten(replacements: Sequence[tuple[bytes, bytes]]) -> Callable[[str], scripts.Script]:
    @cache
    def load(name: str) -> scripts.Script:
        source = scripts.load_script(name).source
        for old, new in replacements:
            if source.count(old) != 1:
                raise RuntimeError("prelude.lua has changed: another release cannot be made of it")
            source = source.replace(old, new)
        return scripts.Script(
            name=name, source=source, sha1=hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        )

    return load


def become_the_next_release() -> None:
    """Everything it writes has something that this release does not know."""
    connection.load_script = _rewritten(
        [
            (_SCHEMA_CONSTANT, f"SCHEMA = 1, '{NEXT}'".encode()),
            (_WRITES_SCHEMA, b", 'schema', SCHEMA, 'mood', 'cheerful')"),
        ]
    )
    envelope.OURS = NEXT
    broker.CONTROL_HEADERS = (broker.CONTROL_HEADERS[0], (SCHEMA_VERSION, str(NEXT).encode()))
    encode_chunk, encode_sealed = wire.encode_chunk, wire.encode_sealed
    encode_heartbeat = fleet_codec.encode_heartbeat
    wire.encode_chunk = lambda chunk: _longer(encode_chunk(chunk), fields=7)
    wire.encode_sealed = lambda outcome: _longer(encode_sealed(outcome), fields=7)

    def heartbeat_and_more(heartbeat: Heartbeat) -> bytes:
        return encode_heartbeat(heartbeat) + _UNKNOWN_FIELD

    fleet_codec.encode_heartbeat = heartbeat_and_more


def _longer(encoded: bytes, *, fields: int) -> bytes:
    """The array with every field that this release knows, and one that it does not."""
    values = msgpack.unpackb(encoded)
    values += [None] * (fields - len(values))
    longer: bytes = msgpack.packb([*values, {"mood": "cheerful"}])
    return longer


def become_the_release_before() -> None:
    """Nothing it writes says a version."""
    connection.load_script = _rewritten([(_WRITES_SCHEMA, b")")])
    broker.CONTROL_HEADERS = broker.CONTROL_HEADERS[:1]
    result_headers = sealing.result_headers

    def unversioned(*arguments: object, **options: object) -> envelope.Headers:
        headers = result_headers(*arguments, **options)  # type: ignore[arg-type]
        return tuple(item for item in headers if item[0] != SCHEMA_VERSION)

    sealing.result_headers = unversioned


RELEASES = (lambda: None, become_the_next_release, become_the_release_before)

if __name__ == "__main__":
    RELEASES[int(os.environ["PENSTOCK_WORKER_NAME"].rpartition("-")[2]) % len(RELEASES)]()
    sys.exit(worker.main())
