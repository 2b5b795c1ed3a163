"""How requests and workers are named. Pure functions: no clock, no network, no randomness but `secrets`.

A request keeps one id through every copy, redelivery and failover, so the id is *derived*, never drawn
(DELIVERY line 2): from what the producer called it, else from where the record lies in Kafka.
"""

import hashlib
import re
import secrets
from typing import NewType

RequestId = NewType("RequestId", str)
"""32 lower-case hexadecimal digits."""

WorkerId = NewType("WorkerId", str)
"""The stable name of a worker, as an operator knows it: `default-0`."""

Incarnation = NewType("Incarnation", str)
"""One life of a worker process: `<worker id>.<random>`. Leases and claims belong to it, never to the name."""

ClaimToken = NewType("ClaimToken", str)
"""A fresh random value per claim; it fences every write that the claim's holder makes."""

_ID_BYTES = 16
_ID_PATTERN = re.compile(r"[0-9a-f]{32}", re.ASCII)
_INCARNATION_PATTERN = re.compile(r".+\.[0-9a-f]{12}", re.ASCII)
_SEED_BITS = 63


def _digest(*parts: str) -> str:
    """Hash the parts with their lengths, so that no two different lists of parts collide by concatenation."""
    hasher = hashlib.blake2b(digest_size=_ID_BYTES)
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        hasher.update(len(encoded).to_bytes(8, "big"))
        hasher.update(encoded)
    return hasher.hexdigest()


def request_id_from_event(*, tenant: str, source: str, event_id: str) -> RequestId:
    """The id of a request whose producer set `ce_id`; `source` is `ce_source`, empty when absent."""
    return RequestId(_digest("event", tenant, source, event_id))


def request_id_from_coordinates(
    *, cluster: str, topic: str, partition: int, offset: int, timestamp_ms: int
) -> RequestId:
    """The id of a record that names itself in no way. The timestamp tells a re-created topic from the old one."""
    return RequestId(_digest("record", cluster, topic, str(partition), str(offset), str(timestamp_ms)))


def is_request_id(text: str) -> bool:
    return _ID_PATTERN.fullmatch(text) is not None


def new_incarnation(worker_id: WorkerId) -> Incarnation:
    return Incarnation(f"{worker_id}.{secrets.token_hex(6)}")


def is_incarnation(text: str) -> bool:
    return _INCARNATION_PATTERN.fullmatch(text) is not None


def worker_of(incarnation: Incarnation) -> WorkerId:
    return WorkerId(incarnation.rpartition(".")[0])


def new_claim_token() -> ClaimToken:
    return ClaimToken(secrets.token_hex(8))


def body_fingerprint(body: bytes) -> str:
    """Tells two bodies posted under one id apart."""
    return hashlib.blake2b(body, digest_size=_ID_BYTES).hexdigest()


def seed_from_request_id(request_id: RequestId) -> int:
    """The seed of a request that brought none: a rerun from nothing gives the same tokens (DELIVERY line 12)."""
    digest = hashlib.blake2b(request_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & ((1 << _SEED_BITS) - 1)
