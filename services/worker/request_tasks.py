"""Many short tasks with one lifetime: asyncio's TaskGroup, and a way to end what is left. Knows nothing of work."""

import asyncio
from collections.abc import Coroutine
from typing import Any


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

    async def finished(self, timeout_seconds: float) -> bool:
        """Whether all of them ended in time."""
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(set(self._tasks), timeout=timeout_seconds)
        return not pending

    def cancel(self) -> None:
        for task in set(self._tasks):
            task.cancel()
