"""A TCP proxy in front of a server that can be made slow: what it passes back arrives so much later, in order."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

_CHUNK_BYTES = 65_536


class DelayingProxy:
    """`async with DelayingProxy(port) as proxy`; `proxy.delay_seconds` may change at any time."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds = 0.0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.close()
            return
        for task in (
            asyncio.create_task(self._pass(reader, upstream_writer, is_delayed=False)),
            asyncio.create_task(self._pass(upstream_reader, writer, is_delayed=True)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_delayed: bool) -> None:
        """What was read later never overtakes; answers under way at the same time wait together, not in turn."""
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                at, data = await due.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        writing = asyncio.create_task(write())
        with contextlib.suppress(OSError):
            try:
                while data := await reader.read(_CHUNK_BYTES):
                    due.put_nowait((loop.time() + (self.delay_seconds if is_delayed else 0.0), data))
                due.put_nowait((loop.time(), b""))
                await writing
            finally:
                writing.cancel()
                writer.close()
