"""A set of tasks ends, even with tasks that let a cancellation slip."""

import asyncio

from services.worker.request_tasks import TaskSet


async def test_ending_cancels_what_is_left_and_leaves_the_group_usable() -> None:
    async with asyncio.TaskGroup() as group:
        tasks = TaskSet(group)
        forever = tasks.create_task(asyncio.sleep(3_600))
        await tasks.end()
        assert forever.cancelled()
        assert len(tasks) == 0
        await group.create_task(asyncio.sleep(0))


async def test_a_task_that_swallows_one_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            swallowed += 1
        await asyncio.sleep(3_600)

    async with asyncio.TaskGroup() as group:
        tasks = TaskSet(group)
        task = tasks.create_task(stubborn())
        await asyncio.sleep(0)
        await asyncio.wait_for(tasks.end(), 10)
        assert swallowed == 1
        assert task.cancelled()
