"""The ledger's verbs: one method, one script, one round trip each (docs/protocol.md).

What a verb decides is in its script; here are only names, arguments and answers. Every method raises
`LedgerUnavailable` when Redis cannot be reached and may then be called again without harm. It knows nothing of
Kafka, HTTP or the engine.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from shared.contracts.errors import LedgerUnavailable
from shared.contracts.events import PublishedOutcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId, new_claim_token
from shared.ledger import answers, wire
from shared.ledger.connection import Connections
from shared.ledger.records import (
    LOST,
    Append,
    AppendAnswer,
    CancelAnswer,
    Claim,
    ClaimRequest,
    Epoch,
    OwnedRequest,
    RegisterAnswer,
    Registration,
    RequestRecord,
    SealAnswer,
    StreamMessage,
    StreamSnapshot,
)
from shared.ledger.subscriptions import Subscription
from shared.resilience.circuit_breaker import CircuitBreaker
from shared.settings.redis import RedisSettings

_APPENDS_PER_SCRIPT = 64


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class Ledger:
    """An async context manager; it connects when first used."""

    def __init__(self, settings: RedisSettings, *, breaker: CircuitBreaker | None = None) -> None:
        """With a `breaker` a Redis that is away is refused at once instead of waited for; leases do without one."""
        self._settings = settings
        self._prefix = settings.key_prefix
        self._retention_ms = settings.done_retention_seconds * 1000
        self._log_retention_ms = settings.log_retention_seconds * 1000
        self._connections = Connections(settings.url, breaker=breaker)
        self._candidate = secrets.token_hex(8)
        self._unanswered_claims: dict[tuple[RequestId, Incarnation], ClaimToken] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connections.close()

    async def ping(self) -> None:
        await self._connections.ask("PING")

    async def time_ms(self) -> int:
        """What time it is by Redis' clock, by which every deadline is judged."""
        seconds, microseconds = await self._connections.ask("TIME")
        return int(seconds) * 1_000 + int(microseconds) // 1_000

    # --- gateway

    async def register(self, registration: Registration, *, channel: str | None) -> RegisterAnswer:
        """Make a request known and subscribe `channel` to it. The first to register fixes the fingerprint."""
        reply = await self._run("register", *self._described(registration), _channel(channel))
        return answers.register_answer(reply)

    async def attach(self, request_id: RequestId, *, channel: str) -> StreamSnapshot | None:
        """Subscribe and read the log in one step. None: unknown. A finished request gets no subscriber."""
        return answers.snapshot(await self._run("snapshot", request_id, _channel(channel)))

    async def detach(self, request_id: RequestId, *, channel: str) -> int:
        """Unsubscribe; how many subscribers are left."""
        return int(await self._run("detach", request_id, _channel(channel)))

    async def describe(self, request_id: RequestId) -> RequestRecord | None:
        return answers.request_record(request_id, await self._run("describe", request_id))

    async def cancel(self, request_id: RequestId, *, reason: str, tenant: str | None) -> CancelAnswer:
        """Ask for the end of a request; of a tenant's own only, unless `tenant` is None."""
        reply = await self._run(
            "cancel", request_id, _bytes(reason), _bytes(tenant or ""), int(tenant is not None), self._retention_ms
        )
        return answers.cancel_answer(reply)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[AsyncIterator[list[StreamMessage]]]:
        """What is appended and finished for the requests that `channel` is subscribed to."""
        name = f"{self._prefix}stream:{_channel(channel)}"
        async with Subscription(self._connections, name) as encoded:
            yield (_LOST_BATCH if message is None else wire.decode_message(message) async for message in encoded)

    # --- worker

    async def claim(self, request: ClaimRequest) -> Claim:
        """Ask to run a request. A claim whose answer was lost is repeated as the same claim."""
        key = (request.registration.request_id, request.incarnation)
        token = self._unanswered_claims.pop(key, None) or new_claim_token()
        try:
            reply = await self._run(
                "claim",
                *self._described(request.registration),
                _bytes(request.incarnation),
                token,
                self._settings.lease_ttl_ms,
                wire.encode_origin(request.coordinates, request.trace_headers),
                request.max_attempts,
                int(request.running),
                _bytes(request.engine),
                self._settings.foreign_patience_ms,
            )
        except LedgerUnavailable:
            self._unanswered_claims[key] = token
            raise
        return answers.claim_answer(reply, token)

    async def append(self, batch: Sequence[Append]) -> list[AppendAnswer]:
        """Write one flush, in order, and wake the subscribers. Await it before the next one."""
        replies: list[AppendAnswer] = []
        for start in range(0, len(batch), _APPENDS_PER_SCRIPT):
            encoded = wire.encode_flush(batch[start : start + _APPENDS_PER_SCRIPT])
            reply = await self._run("append", self._retention_ms, encoded)
            replies.extend(map(answers.append_answer, reply))
        return replies

    async def seal(self, request_id: RequestId, token: ClaimToken, outcome: SealedOutcome) -> SealAnswer:
        """Decide the outcome's bytes. The answer holds what is sealed, which may be what somebody sealed before."""
        reply = await self._run(
            "seal", request_id, token, outcome.outcome.value, wire.encode_sealed(outcome), self._retention_ms
        )
        return answers.seal_answer(reply, outcome)

    async def finish(self, request_id: RequestId) -> bool:
        """The sealed bytes are published: show the terminal, keep a marker. False: Redis lost them, `restore` them."""
        return bool(await self._run("finish", request_id, self._retention_ms, self._log_retention_ms))

    async def release(self, request_id: RequestId, token: ClaimToken) -> bool:
        """Let go without harm (drain, retry later). False: it was not held by this token."""
        return bool(await self._run("release", request_id, token))

    async def refresh_lease(self, incarnation: Incarnation) -> Epoch | None:
        """Stay alive. None: Redis has no memory; claims are answered `Recovering` until `open_epoch`."""
        return answers.epoch(await self._run("refresh", _bytes(incarnation), self._settings.lease_ttl_ms))

    async def drop_lease(self, incarnation: Incarnation) -> None:
        await self._connections.ask("DEL", _bytes(f"{self._prefix}lease:{incarnation}"))

    @asynccontextmanager
    async def listen_cancellations(self, incarnation: Incarnation) -> AsyncIterator[AsyncIterator[RequestId]]:
        """Ids to cancel now. Also seen by `append`: after a lost connection nothing needs to be read again."""
        async with Subscription(self._connections, f"{self._prefix}worker:{incarnation}") as encoded:
            yield (RequestId(message.decode()) async for message in encoded if message is not None)

    # --- when Redis lost its data (line 14)

    async def epoch(self) -> Epoch | None:
        """What `refresh_lease` answers, for those who hold no lease."""
        key = f"{self._prefix}epoch"
        return answers.epoch(await self._connections.ask("HMGET", key, "name", "opened", "refilled"))

    async def reclaim(self, request: ClaimRequest, token: ClaimToken, *, sealed: SealedOutcome | None = None) -> bool:
        """Put a claim back under its own token, and what was sealed under it. False: it is somebody else's now."""
        reply = await self._run(
            "reclaim",
            *self._described(request.registration),
            _bytes(request.incarnation),
            token,
            self._settings.lease_ttl_ms,
            wire.encode_origin(request.coordinates, request.trace_headers),
            _bytes(request.engine),
            "" if sealed is None else sealed.outcome.value,
            b"" if sealed is None else wire.encode_sealed(sealed),
        )
        return bool(reply)

    async def restore(self, published: PublishedOutcome) -> bool:
        """Put a published outcome back. False: it is there."""
        outcome = published.outcome
        reply = await self._run(
            "restore",
            outcome.request_id,
            outcome.outcome.value,
            wire.encode_sealed(outcome),
            _bytes(published.tenant),
            _bytes(published.pool),
            outcome.sealed_at_ms,
            "" if published.coordinates is None else wire.encode_origin(published.coordinates, ()),
            self._retention_ms,
            self._log_retention_ms,
        )
        return bool(reply)

    async def open_epoch(self, *, is_refilled: bool) -> Epoch:
        """Answer claims from now on. The first one to say so names the epoch."""
        epoch = answers.epoch(await self._run("open", secrets.token_hex(8), int(is_refilled)))
        assert epoch is not None
        return epoch

    # --- supervisor

    async def lost_incarnations(self) -> list[Incarnation]:
        """Incarnations that own requests and have no lease."""
        return [Incarnation(answers.text(reply)) for reply in await self._run("lost")]

    async def without_lease(self, incarnations: Sequence[Incarnation]) -> list[Incarnation]:
        """Those of them that have no lease now."""
        keys = [_bytes(f"{self._prefix}lease:{incarnation}") for incarnation in incarnations]
        leases = await self._connections.ask("MGET", *keys) if keys else []
        return [incarnation for incarnation, lease in zip(incarnations, leases, strict=True) if lease is None]

    async def owned(self, incarnation: Incarnation) -> list[OwnedRequest]:
        return [answers.owned_request(reply) for reply in await self._run("owned", _bytes(incarnation))]

    async def orphan(self, request_id: RequestId, token: ClaimToken) -> bool:
        """Take a request from a holder without a lease. False: it has moved on, or the holder lives."""
        return bool(await self._run("orphan", request_id, token))

    async def elect(self, name: str, *, ttl_ms: int) -> int | None:
        """Become or stay the leader. The fencing number grows with each new leadership; None: somebody else."""
        return int(await self._run("elect", name, self._candidate, ttl_ms)) or None

    async def resign(self, name: str) -> bool:
        return bool(await self._run("resign", name, self._candidate))

    # --- inside

    def _described(self, registration: Registration) -> tuple[bytes | str | int, ...]:
        if not registration.fingerprint:
            raise ValueError("a registration needs a fingerprint")
        return (
            registration.request_id,
            _bytes(registration.fingerprint),
            _bytes(registration.pool),
            registration.lane.value,
            _bytes(registration.tenant),
            "" if registration.deadline_ms is None else registration.deadline_ms,
            registration.seed,
            self._retention_ms,
        )

    async def _run(self, script: str, *arguments: bytes | str | int) -> Any:
        return await self._connections.run(script, self._prefix, *arguments)


_LOST_BATCH = [LOST]


def _channel(channel: str | None) -> str:
    if channel is None:
        return ""
    if not channel or "\n" in channel:
        raise ValueError("a channel is a line of text")
    return channel
