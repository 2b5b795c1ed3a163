"""How another process asks a running stack to change itself: a socket that only its owner can open.

One request a connection, a JSON object in a line; answered by lines of `{"say": ...}`, then `{"done": ...}` or
`{"failed": ..., "hint": ...}`. What was asked belongs to the stack: it goes on when the asker hangs up. Refuses to
know what a rollout is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from services.cli.console import CommandFailed

Say = Callable[[str], None]
Obey = Callable[[dict[str, Any], Say], Awaitable[str]]
"""Does what a request asks for and returns how it ended. Raises CommandFailed."""


class StackControl:
    """`async with StackControl(obey) as control`; leaving ends what is under way."""

    def __init__(self, obey: Obey) -> None:
        self._obey = obey
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._directory = ""
        self.path = ""

    async def __aenter__(self) -> Self:
        # Not in the data directory: a socket's path may have 107 bytes.
        self._directory = tempfile.mkdtemp(prefix="penstock-")
        self.path = str(Path(self._directory) / "control")
        self._server = await asyncio.start_unix_server(self._answer, self.path)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = json.loads(await reader.readline())
        work = asyncio.create_task(self._work(request, writer))
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    async def _work(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        try:
            _tell(writer, done=await self._obey(request, lambda line: _tell(writer, say=line)))
        except CommandFailed as failure:
            _tell(writer, failed=failure.message, hint=failure.hint)
        except asyncio.CancelledError:
            _tell(writer, failed="the stack stops", hint=None)
            raise
        finally:
            writer.close()


def _tell(writer: asyncio.StreamWriter, **message: str | None) -> None:
    """Nobody may be listening any more."""
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


async def ask_stack(path: str, request: dict[str, Any], *, say: Say) -> str:
    """How it ended. Raises CommandFailed."""
    async with _connection(path) as (reader, writer):
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        async for line in reader:
            message = json.loads(line)
            if "say" in message:
                say(message["say"])
            elif "done" in message:
                return str(message["done"])
            else:
                raise CommandFailed(message["failed"], hint=message["hint"])
    raise CommandFailed("the stack has ended")


@contextlib.asynccontextmanager
async def _connection(path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        raise CommandFailed("the stack does not take orders", hint="is it just stopping?") from None
    try:
        yield reader, writer
    finally:
        writer.close()
