"""Asking a running stack for something: what the asker hears, and what happens when it does not listen."""

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from services.cli.console import CommandFailed
from services.cli.embedded.stack_control import Say, StackControl, ask_stack


async def test_the_asker_hears_every_step_and_the_end() -> None:
    async def obey(request: dict[str, Any], say: Say) -> str:
        say("first")
        say("second")
        return f"{request['number']} done"

    heard: list[str] = []
    async with StackControl(obey) as control:
        assert await ask_stack(control.path, {"number": 3}, say=heard.append) == "3 done"
    assert heard == ["first", "second"]


async def test_a_failure_is_the_askers_failure() -> None:
    async def obey(request: dict[str, Any], say: Say) -> str:
        raise CommandFailed("it cannot be", hint="try another one")

    async with StackControl(obey) as control:
        with pytest.raises(CommandFailed, match="it cannot be") as failure:
            await ask_stack(control.path, {}, say=print)
    assert failure.value.hint == "try another one"


async def test_nobody_but_the_owner_can_open_it_and_it_is_gone_afterwards() -> None:
    async def obey(request: dict[str, Any], say: Say) -> str:
        return ""

    async with StackControl(obey) as control:
        assert stat.S_IMODE(Path(control.path).parent.stat().st_mode) == 0o700
    assert not Path(control.path).exists()
    with pytest.raises(CommandFailed, match="does not take orders"):
        await ask_stack(control.path, {}, say=print)


async def test_what_was_asked_goes_on_when_the_asker_hangs_up() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def obey(request: dict[str, Any], say: Say) -> str:
        begun.set()
        await may_end.wait()
        say("nobody hears this")
        ended.set()
        return "done"

    async with StackControl(obey) as control:
        asker = asyncio.create_task(ask_stack(control.path, {}, say=print))
        await begun.wait()
        asker.cancel()
        await asyncio.wait({asker})
        may_end.set()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_stack_that_stops_ends_what_was_asked_and_says_so() -> None:
    begun, was_cancelled = asyncio.Event(), asyncio.Event()

    async def obey(request: dict[str, Any], say: Say) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise
        return "never"

    async with StackControl(obey) as control:
        asker = asyncio.create_task(ask_stack(control.path, {}, say=print))
        await begun.wait()
    assert was_cancelled.is_set()
    with pytest.raises(CommandFailed, match="the stack"):
        await asker
