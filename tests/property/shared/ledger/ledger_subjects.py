"""The ledgers that the interleavings are tried on, and how to make a deadline pass in each."""

import uuid
from dataclasses import replace
from typing import Protocol

from shared.contracts.identifiers import RequestId
from shared.ledger.ledger import Ledger
from shared.settings.redis import RedisSettings
from tests.fakes.in_memory_ledger import InMemoryLedger

REQUEST = RequestId("a" * 32)


class Subject(Protocol):
    """A ledger under test; `expire` makes the request's deadline pass."""

    ledger: Ledger

    async def open(self) -> None: ...

    async def expire(self) -> None: ...

    async def close(self) -> None: ...


class InMemorySubject:
    async def open(self) -> None:
        fake = InMemoryLedger(RedisSettings(lease_ttl_ms=600_000))
        self.fake = fake
        self.ledger: Ledger = fake  # type: ignore[assignment]

    async def expire(self) -> None:
        entry = self.fake.store.entries[REQUEST]
        assert entry.registration is not None
        entry.registration = replace(entry.registration, deadline_ms=1)

    async def close(self) -> None:
        return None


class RedisSubject:
    def __init__(self, url: str) -> None:
        self._settings = RedisSettings(url=url, key_prefix=f"{uuid.uuid4().hex}:", lease_ttl_ms=600_000)

    async def open(self) -> None:
        self.ledger = Ledger(self._settings)
        await self.ledger.open_epoch(is_refilled=False)

    async def expire(self) -> None:
        key = f"{self._settings.key_prefix}request:{REQUEST}"
        await self.ledger._connections.ask("HSET", key, "deadline", 1)

    async def forget(self) -> None:
        """The request's keys are gone, as if their time had come."""
        names = [f"{self._settings.key_prefix}{kind}:{REQUEST}" for kind in ("request", "log", "outcome")]
        await self.ledger._connections.ask("DEL", *names)

    async def close(self) -> None:
        await self.ledger.__aexit__(None, None, None)
