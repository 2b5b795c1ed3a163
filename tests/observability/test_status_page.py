"""The supervisor's status page in a headless Chromium, on a stack that is used and then loses a worker."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from tests.fixtures.stack import READY_SECONDS, TINY
from tests.observability.browser import Page, chromium

pytestmark = [
    pytest.mark.observability,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

_SEEN_SECONDS = 60.0
PICTURES = os.environ.get("PICTURES_DIRECTORY")
"""Where to leave the page's picture (docs/pictures); unset: nowhere."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedStack]:
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    plan = StackPlan(
        data_dir=tmp_path_factory.mktemp("shown"),
        pools=(PoolPlan(workers=3, model=tiny_model, served_model_name=TINY, dtype="float32"),),
        request_partitions=6,
    )
    async with EmbeddedStack(plan) as running:
        await running.wait_until_ready(timeout_seconds=READY_SECONDS)
        yield running


async def until(page: Page, expression: str) -> None:
    """The page comes to it by itself: nobody reloads it."""
    async with asyncio.timeout(_SEEN_SECONDS):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.1)


async def ask(stack: EmbeddedStack, **changes: object) -> str:
    body = {"model": TINY, "prompt": "hi", "max_tokens": 60, "stream": True, "ignore_eos": True, **changes}
    async with httpx.AsyncClient(base_url=stack.http_url, timeout=60) as client:
        return (await client.post("/v1/completions", json=body)).headers["x-request-id"]


async def test_the_page_shows_the_fleet_its_breakers_and_service_levels_and_follows_a_killed_worker(
    stack: EmbeddedStack, tmp_path: Path
) -> None:
    for _ in range(12):
        await ask(stack)
    async with chromium(tmp_path, stack.supervisor_url) as page:
        await until(page, "document.querySelectorAll('.worker.good').length === 3")
        await until(page, "document.getElementById('freshness').textContent === 'live'")
        await until(page, "document.querySelectorAll('#levels tbody tr').length > 0")
        assert await page.evaluate("document.querySelectorAll('#breakers tr').length") == 4  # three workers, one pool
        running = asyncio.create_task(ask(stack, max_tokens=1_500))
        await until(page, "[...document.querySelectorAll('.worker meter:first-of-type')].some(m => m.value > 0)")
        victim = stack.workers[0].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        await until(page, "document.getElementById('events').textContent.includes('worker-lost')")
        await until(page, "document.querySelectorAll('.worker.good').length === 3")
        request_id = await running
        await page.evaluate(f"location.hash = '{request_id}'")
        await until(page, "document.querySelectorAll('#waterfall .span').length >= 6")
        if PICTURES:
            await page.screenshot(Path(PICTURES) / "status-page.png")
        assert page.complaints == []


async def test_what_the_page_is_told_is_written_as_text(stack: EmbeddedStack, tmp_path: Path) -> None:
    async with chromium(tmp_path, f"{stack.supervisor_url}/#<img src=x onerror=document.title='taken'>") as page:
        await until(page, "document.getElementById('told').textContent !== ''")
        assert await page.evaluate("document.querySelectorAll('main img').length") == 0
        assert await page.evaluate("document.title") == "Penstock"


async def test_the_page_says_when_nobody_answers_any_more(stack: EmbeddedStack, tmp_path: Path) -> None:
    async with chromium(tmp_path, stack.supervisor_url) as page:
        await until(page, "document.getElementById('freshness').textContent === 'live'")
        supervisor = next(service for service in stack.services if service.module == "services.supervisor")
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGSTOP)
        try:
            await until(page, "document.getElementById('freshness').className === 'stale'")
        finally:
            os.kill(supervisor.pid, signal.SIGCONT)
        await until(page, "document.getElementById('freshness').textContent === 'live'")
