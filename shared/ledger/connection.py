"""Runs the ledger's scripts on Redis and says `LedgerUnavailable` when it cannot. It knows no verb and no key.

It uses redis-py's connections (URL, TLS, login, hiredis) but not its client, whose pool, retries and event hooks
cost more than the exchange itself. A broken connection is retried once at once: every verb may be repeated.
"""

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.contracts.errors import InvariantViolated, LedgerUnavailable
from shared.ledger.scripts import load_script

_CONNECT_TIMEOUT_SECONDS = 2.0
_ANSWER_TIMEOUT_SECONDS = 3.0

_BROKEN = (RedisConnectionError, OSError)
_UNAVAILABLE = (*_BROKEN, RedisTimeoutError, OutOfMemoryError, ReadOnlyError)


def translate(error: Exception) -> LedgerUnavailable | InvariantViolated:
    """What an error of Redis means to us."""
    if isinstance(error, _UNAVAILABLE):
        return LedgerUnavailable(f"Redis does not answer: {type(error).__name__}")
    return InvariantViolated(f"Redis refused a ledger command: {error}")


class Connections:
    """Up to `size` connections, opened when first needed; with `size` 1, exchanges happen in the order asked."""

    def __init__(self, url: str, *, size: int) -> None:
        # Only a factory here: it parses the URL and knows which class of connection it means.
        self._factory = ConnectionPool.from_url(
            url,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            socket_timeout=_ANSWER_TIMEOUT_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._free = asyncio.Semaphore(size)
        self._idle: list[AbstractConnection] = []

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    def new(self) -> AbstractConnection:
        """A connection of the caller's own, not connected yet."""
        connection: AbstractConnection = self._factory.make_connection()  # type: ignore[no-untyped-call]
        return connection

    async def run(self, name: str, *arguments: bytes | str | int) -> Any:
        """Run a script: one round trip, two the first time Redis sees it."""
        script = load_script(name)
        try:
            return await self.ask("EVALSHA", script.sha1, 0, *arguments)
        except NoScriptError:
            return await self.ask("EVAL", script.source, 0, *arguments)

    async def ask(self, *command: bytes | str | int) -> Any:
        """One command, one answer."""
        try:
            async with self._free:
                try:
                    return await self._exchange(command)
                except _BROKEN:
                    await self.close()  # what lies idle is as stale as the one that broke
                    return await self._exchange(command)
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            raise translate(error) from error

    async def _exchange(self, command: tuple[bytes | str | int, ...]) -> Any:
        connection = self._idle.pop() if self._idle else self.new()
        try:
            if not connection.is_connected:
                await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command(connection.pack_command(*command), check_health=False)
            reply = await connection.read_response()
        except ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return reply
