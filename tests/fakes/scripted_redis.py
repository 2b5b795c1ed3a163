"""A server that speaks Redis' protocol and does what a test tells it to: hold answers back, hang up, send rubbish.

It is no Redis: the contract suite runs on the real one. It exists for what a real one does not do on demand.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis

Command = list[bytes]
_HANDSHAKE = (b"CLIENT", b"HELLO", b"SELECT")


class ScriptedRedis:
    """`batches` are the commands of each read; a test answers them with `answer`, unless `echo` does at once."""

    def __init__(self, *, echo: Callable[[Command], bytes] | None = None) -> None:
        self.batches: list[list[Command]] = []
        self.num_connections = 0
        self._echo = echo
        self._changed = asyncio.Condition()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    @property
    def commands(self) -> list[Command]:
        return [command for batch in self.batches for command in batch]

    async def wait_for_commands(self, count: int) -> None:
        async with self._changed, asyncio.timeout(5):
            await self._changed.wait_for(lambda: len(self.commands) >= count)

    def answer(self, *replies: bytes) -> None:
        self._writers[-1].write(b"".join(replies))

    def hang_up(self) -> None:
        """Whatever is still on its way is lost."""
        self._writers[-1].transport.abort()

    def hang_up_after_writing(self) -> None:
        self._writers[-1].close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._writers.append(writer)
        parser = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                parser.feed(data)
                await self._take(parser, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _take(self, parser: hiredis.Reader, writer: asyncio.StreamWriter) -> None:
        batch: list[Command] = []
        while (command := parser.gets()) is not False:
            if command[0] in _HANDSHAKE:
                writer.write(b"+OK\r\n")
            else:
                batch.append(command)
        if not batch:
            return
        if self._echo is not None:
            writer.write(b"".join(map(self._echo, batch)))
        async with self._changed:
            self.batches.append(batch)
            self._changed.notify_all()


@asynccontextmanager
async def scripted_redis(*, echo: Callable[[Command], bytes] | None = None) -> AsyncIterator[ScriptedRedis]:
    redis = ScriptedRedis(echo=echo)
    redis._server = await asyncio.start_server(redis._serve, "127.0.0.1", 0)
    try:
        yield redis
    finally:
        redis._server.close()
        for writer in redis._writers:
            writer.transport.abort()
