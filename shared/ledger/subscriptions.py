"""A pub/sub channel as an async iterator that survives lost connections and says when it did.

Pub/sub promises nothing: whoever listens reads the log again after a `None` (a connection was lost) and every
silent second (DELIVERY line 12). It does not know what the messages mean.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from shared.contracts.errors import LedgerUnavailable
from shared.ledger.connection import translate

_PING_AFTER_SECONDS = 1.0
_SILENT_PINGS_ALLOWED = 3
_RECONNECT_SECONDS = 0.1


@asynccontextmanager
async def subscription(open_client: Callable[[], Redis], channel: str) -> AsyncIterator[AsyncIterator[bytes | None]]:
    """Entered once Redis has confirmed the subscription; yields messages, and None after each reconnection."""
    async with AsyncExitStack() as stack:
        client = open_client()
        stack.push_async_callback(client.aclose)
        first = await translate(lambda: _subscribe(client, channel))
        messages = _messages(client, channel, first)
        stack.push_async_callback(messages.aclose)
        yield messages


async def _subscribe(client: Redis, channel: str) -> PubSub:
    pubsub = client.pubsub()
    try:
        await pubsub.subscribe(channel)
        async with asyncio.timeout(_PING_AFTER_SECONDS * _SILENT_PINGS_ALLOWED):
            while await pubsub.get_message(timeout=_PING_AFTER_SECONDS) is None:
                pass
    except BaseException:
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        raise
    return pubsub


async def _messages(client: Redis, channel: str, first: PubSub) -> AsyncGenerator[bytes | None]:
    pubsub: PubSub = first
    try:
        while True:
            try:
                async for message in _until_lost(pubsub):
                    yield message
            except (RedisError, OSError, TimeoutError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            pubsub = await _resubscribe(client, channel)
            yield None
    finally:
        await pubsub.aclose()  # type: ignore[no-untyped-call]


async def _resubscribe(client: Redis, channel: str) -> PubSub:
    while True:
        try:
            return await _subscribe(client, channel)
        except (RedisError, OSError, TimeoutError, LedgerUnavailable):
            await asyncio.sleep(_RECONNECT_SECONDS)


async def _until_lost(pubsub: PubSub) -> AsyncIterator[bytes]:
    silent_pings = 0
    while True:
        message = await pubsub.get_message(timeout=_PING_AFTER_SECONDS)
        if message is None:
            silent_pings += 1
            if silent_pings > _SILENT_PINGS_ALLOWED:
                raise TimeoutError
            await pubsub.ping()
            continue
        silent_pings = 0
        if message["type"] == "message":
            yield message["data"]
