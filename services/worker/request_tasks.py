"""Many short tasks with one lifetime: asyncio's TaskGroup, and a way to end what is left. Knows nothing of work."""

import asyncio
from collections.abc import Coroutine
from typing import Any

_CANCEL_AGAIN_SECONDS = 0.5


class TaskSet:
    """Tasks of one group that can be waited for and cancelled without ending the group."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._group.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self) -> None:
        """Cancel until all have ended: a cancellation that meets a finished `wait_for` is swallowed (3.11)."""
        while self._tasks:
            for task in set(self._tasks):
                task.cancel()
            await asyncio.wait(set(self._tasks), timeout=_CANCEL_AGAIN_SECONDS)
