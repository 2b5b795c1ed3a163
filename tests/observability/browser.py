"""A headless Chromium and the few things a test asks of it, over its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

_LISTENS = re.compile(r"ws://127\.0\.0\.1:(\d+)/")
_STOP_SECONDS = 10.0


class Page:
    """One tab. `evaluate` runs an expression and returns its value."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        """What the page wrote to its console as an error, and what its content policy refused."""

    async def evaluate(self, expression: str) -> Any:
        answer = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def screenshot(self, file: Path) -> None:
        answer = await self.ask("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(answer["data"]))

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message: dict[str, Any] = json.loads(await self._connection.recv())
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result


@asynccontextmanager
async def chromium(directory: Path, url: str, *, width: int = 1200, height: int = 1000) -> AsyncIterator[Page]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    arguments = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--remote-debugging-port=0", f"--user-data-dir={directory}", f"--window-size={width},{height}", "about:blank",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        port = await _port(process)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            tabs = (await client.get("/json/list")).json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with connect(address, max_size=None) as connection:
            page = Page(connection)
            for domain in ("Page", "Runtime", "Log"):
                await page.ask(f"{domain}.enable")
            await page.ask(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            await page.ask("Page.navigate", url=url)
            while not await page.evaluate("location.protocol === 'http:' && document.readyState === 'complete'"):
                await asyncio.sleep(0.05)
            yield page
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    async for line in process.stderr:
        if found := _LISTENS.search(line.decode()):
            return int(found[1])
    raise AssertionError("chromium did not start")
