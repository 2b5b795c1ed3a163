"""What the gateway needs of the world, as narrow as it uses it. `shared.ledger.ledger.Ledger` and
`shared.messaging.producer.RecordProducer` fit; so do the fakes of the tests. No behaviour here.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from shared.contracts.identifiers import RequestId
from shared.ledger.records import (
    CancelAnswer,
    Epoch,
    RegisterAnswer,
    Registration,
    RequestRecord,
    StreamMessage,
    StreamSnapshot,
)

Headers = Sequence[tuple[str, bytes | None]]


class GatewayLedger(Protocol):
    """Called from the event loop; every method but `listen` is one round trip and raises `LedgerUnavailable`."""

    async def ping(self) -> None: ...

    async def time_ms(self) -> int: ...

    async def register(self, registration: Registration, *, channel: str | None) -> RegisterAnswer: ...

    async def attach(self, request_id: RequestId, *, channel: str) -> StreamSnapshot | None: ...

    async def detach(self, request_id: RequestId, *, channel: str) -> int: ...

    async def describe(self, request_id: RequestId) -> RequestRecord | None: ...

    async def epoch(self) -> Epoch | None: ...

    async def cancel(self, request_id: RequestId, *, reason: str, tenant: str | None) -> CancelAnswer: ...

    def listen(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[list[StreamMessage]]]: ...


class RequestProducer(Protocol):
    """Called from the event loop; returns once the record is acknowledged. Raises `BrokerUnavailable`."""

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Any,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Any: ...
