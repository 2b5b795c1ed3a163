"""Many questions on one connection to Redis: what is asked while an answer is awaited leaves together.

Group commit. When nothing is under way a question leaves in the same turn of the event loop; otherwise it waits for
the answers that are under way, and leaves with all others that came meanwhile: a busy process makes few, large
exchanges, an idle one waits for nobody. Questions are answered in the order asked. It knows no command.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.ledger.reply_stream import ReplyStream

Word = bytes | str | int


class Pipeline:
    """Connects when first asked, and again after a loss. For one event loop."""

    def __init__(self, new_connection: Callable[[], AbstractConnection], *, answer_timeout_seconds: float) -> None:
        self._new_connection = new_connection
        self._pack = new_connection().pack_command  # this one is never connected: packing needs its encoding only
        self._timeout_seconds = answer_timeout_seconds
        self._stream: ReplyStream | None = None
        self._queued: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._sent: deque[asyncio.Future[Any]] = deque()
        self._sent_at = 0.0
        self._opening: asyncio.Task[None] | None = None
        self._is_flush_due = False
        self._watch: asyncio.TimerHandle | None = None

    def ask(self, *command: Word) -> asyncio.Future[Any]:
        """The answer. Fails with what redis-py raises: a lost connection leaves open whether it was carried out."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._queued.append((b"".join(self._pack(*command)), answer))
        self._flush_soon(loop)
        return answer

    async def close(self) -> None:
        """What is not answered yet fails."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._fail(RedisConnectionError("the connection was closed"), also_queued=True)

    def _flush_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queued and not self._sent and not self._is_flush_due and self._opening is None:
            self._is_flush_due = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        loop = asyncio.get_running_loop()
        if self._stream is None:
            if self._opening is None:
                self._opening = loop.create_task(self._open())
            return
        queued, self._queued = self._queued, []
        self._sent.extend(answer for _, answer in queued)
        self._sent_at = loop.time()
        if self._watch is None:
            self._watch = loop.call_later(self._timeout_seconds, self._look_at_the_clock)
        self._stream.write(b"".join(packed for packed, _ in queued))

    async def _open(self) -> None:
        try:
            self._stream = await ReplyStream.open(self._new_connection(), on_replies=self._answered, on_lost=self._lost)
        except (RedisError, OSError) as error:
            self._fail(error, also_queued=True)
        finally:
            self._opening = None
        self._flush_soon(asyncio.get_running_loop())

    def _answered(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            answer = self._sent.popleft()
            if answer.done():  # whoever asked is gone
                continue
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)
        # After those just answered had their turn: what they ask next leaves with the rest.
        self._flush_soon(asyncio.get_running_loop())

    def _lost(self, error: Exception) -> None:
        self._stream = None
        self._fail(error, also_queued=False)
        self._flush_soon(asyncio.get_running_loop())

    def _fail(self, error: Exception, *, also_queued: bool) -> None:
        failed = list(self._sent)
        self._sent.clear()
        if also_queued:
            failed += [answer for _, answer in self._queued]
            self._queued.clear()
        for answer in failed:
            if not answer.done():
                answer.set_exception(error)

    def _look_at_the_clock(self) -> None:
        """One timer at a time, whatever the number of questions."""
        self._watch = None
        if not self._sent or self._stream is None:
            return
        loop = asyncio.get_running_loop()
        left = self._sent_at + self._timeout_seconds - loop.time()
        if left > 0:
            self._watch = loop.call_later(left, self._look_at_the_clock)
        else:
            self._stream.lose(RedisTimeoutError("no answer in time"))
