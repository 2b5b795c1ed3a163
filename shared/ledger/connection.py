"""Runs the ledger's scripts on Redis and says `LedgerUnavailable` when it cannot. It knows no verb and no key.

A broken connection is retried once at once: every verb may be repeated without harm. Appends have a client with a
single connection, so that they stay in order (DELIVERY line 5).
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.contracts.errors import InvariantViolated, LedgerUnavailable
from shared.ledger.scripts import load_script

_CONNECT_TIMEOUT_SECONDS = 2.0
_ANSWER_TIMEOUT_SECONDS = 3.0
T = TypeVar("T")
_UNAVAILABLE = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError, OSError)


def open_client(url: str, *, connections: int) -> Redis:
    """A client that connects when first used."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=_ANSWER_TIMEOUT_SECONDS,
        socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        socket_timeout=_ANSWER_TIMEOUT_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        protocol=2,
    )
    return Redis.from_pool(pool)


async def translate(call: Callable[[], Awaitable[T]]) -> T:
    """Run one exchange with Redis; its errors become ours."""
    try:
        return await call()
    except _UNAVAILABLE as error:
        raise LedgerUnavailable(f"Redis does not answer: {type(error).__name__}") from error
    except RedisError as error:
        raise InvariantViolated(f"Redis refused a ledger command: {error}") from error


async def run_script(client: Redis, name: str, *arguments: bytes | str | int) -> Any:
    """One round trip; two the first time Redis sees the script."""
    script = load_script(name)

    async def call() -> Any:
        try:
            return await client.execute_command("EVALSHA", script.sha1, 0, *arguments)  # type: ignore[no-untyped-call]
        except NoScriptError:
            return await client.execute_command("EVAL", script.source, 0, *arguments)  # type: ignore[no-untyped-call]

    return await translate(call)
