"""What Redis answers on one connection, as callbacks. It knows no commands and no order of questions.

redis-py opens the connection (URL, TLS, login); then this takes its transport over. Reading by callbacks instead of
redis-py's `read_response` costs one wake-up for all replies that arrive together, not several for each.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

Replies = Callable[[Sequence[Any]], None]
"""Called with what arrived together, in order; an error of Redis is a value, not raised."""


class ReplyStream(asyncio.Protocol):
    """Open until `close` or until `is_lost`, which is told once."""

    def __init__(
        self, connection: AbstractConnection, *, on_replies: Replies, on_lost: Callable[[Exception], None]
    ) -> None:
        self._connection = connection
        self._on_replies = on_replies
        self._on_lost = on_lost
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error)
        self._is_closed = False
        self.last_heard_at = asyncio.get_running_loop().time()
        self._transport = cast(asyncio.Transport, connection._writer.transport)  # type: ignore[union-attr]

    @classmethod
    async def open(
        cls, connection: AbstractConnection, *, on_replies: Replies, on_lost: Callable[[Exception], None]
    ) -> Self:
        """Connect and take over. Raises what redis-py raises; then nothing is left open."""
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            stream = cls(connection, on_replies=on_replies, on_lost=on_lost)
            stream._transport.set_protocol(stream)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return stream

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        """No callback comes after this."""
        if not self._is_closed:
            self._is_closed = True
            self._connection._close()  # type: ignore[no-untyped-call]

    def lose(self, error: Exception) -> None:
        """Close and tell, as if the network had done it."""
        if not self._is_closed:
            self.close()
            self._on_lost(error)

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._is_closed:
            return
        self.last_heard_at = asyncio.get_running_loop().time()
        replies: list[Any] = []
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        except InvalidResponse as error:
            self.lose(RedisConnectionError(f"Redis sent what is not its protocol: {error}"))
            return
        if replies:
            self._on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(RedisConnectionError("Redis closed the connection"))
