"""Runs the ledger's scripts on Redis and says `LedgerUnavailable` when it cannot. It knows no verb and no key.

It uses redis-py's connections (URL, TLS, login) but not its client, whose pool, retries and event hooks cost more
than the exchange itself; questions share one connection (`pipeline.py`). A question that a broken connection left
open is asked once more at once: every verb may be repeated.
"""

import re
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.contracts.errors import InvariantViolated, LedgerUnavailable
from shared.contracts.schema_version import OURS
from shared.ledger.pipeline import Pipeline, Word
from shared.ledger.scripts import load_script
from shared.resilience.circuit_breaker import CircuitBreaker
from shared.telemetry.round_trips import ledger_round_trip

_CONNECT_TIMEOUT_SECONDS = 2.0
_ANSWER_TIMEOUT_SECONDS = 3.0

_NEWER = re.compile(r"NEWER_SCHEMA ([0-9.]+)")
_BROKEN = (RedisConnectionError, OSError)
_UNAVAILABLE = (*_BROKEN, RedisTimeoutError, OutOfMemoryError, ReadOnlyError)


def translate(error: Exception) -> LedgerUnavailable | InvariantViolated:
    """What an error of Redis means to us."""
    if isinstance(error, AuthenticationError):
        return LedgerUnavailable("Redis refused the login: look at the password in PENSTOCK_REDIS_URL")
    if isinstance(error, _UNAVAILABLE):
        return LedgerUnavailable(f"Redis does not answer: {type(error).__name__}")
    return InvariantViolated(f"Redis refused a ledger command: {error}")


def _newer(error: InvariantViolated) -> LedgerUnavailable | None:
    """A request that a newer release keeps: not ours to touch, and no reason to think that Redis is ill."""
    found = _NEWER.search(error.message)
    if found is None:
        return None
    ours = f"{OURS.major}.x"
    return LedgerUnavailable(f"Redis has this request in schema version {found[1]}, this release knows {ours}")


class Connections:
    """One pipelined connection for questions, opened when first needed, and others of the callers' own."""

    def __init__(self, url: str, *, breaker: CircuitBreaker | None = None) -> None:
        self._breaker = breaker
        # Only a factory here: it parses the URL and knows which class of connection it means.
        self._factory = ConnectionPool.from_url(
            url,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            socket_timeout=_ANSWER_TIMEOUT_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._pipeline = Pipeline(self.new, answer_timeout_seconds=_ANSWER_TIMEOUT_SECONDS)

    async def close(self) -> None:
        await self._pipeline.close()

    def new(self) -> AbstractConnection:
        """A connection of the caller's own, not connected yet."""
        connection: AbstractConnection = self._factory.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def run(self, name: str, *arguments: Word) -> Any:
        """Run a script: one round trip, two the first time Redis sees it."""
        script = load_script(name)
        with ledger_round_trip(name):
            try:
                try:
                    return await self.ask("EVALSHA", script.sha1, 0, *arguments)
                except NoScriptError:
                    return await self.ask("EVAL", script.source, 0, *arguments)
            except InvariantViolated as error:
                raise _newer(error) or error from error

    async def ask(self, *command: Word) -> Any:
        """One command, one answer. With an open breaker: `LedgerUnavailable` at once."""
        if self._breaker is None:
            return await self._ask(*command)
        attempt = self._breaker.attempt(failure=LedgerUnavailable)
        if attempt is None:
            raise LedgerUnavailable("Redis did not answer lately; it is left alone for a moment")
        with attempt:
            return await self._ask(*command)

    async def _ask(self, *command: Word) -> Any:
        try:
            try:
                return await self._pipeline.ask(*command)
            except _BROKEN:
                return await self._pipeline.ask(*command)
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            raise translate(error) from error
