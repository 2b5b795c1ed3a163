"""What was answered leaves nothing behind in a worker: its memory follows from what it runs, not from what it ran."""

from typing import Any

from tests.living_objects import objects_of_ours
from tests.unit.services.worker.path_harness import PathHarness, running_path


async def answer(harness: PathHarness, name: str, *, count: int, **body: Any) -> None:
    for number in range(count):
        delivery = harness.ask(headers=[("ce_id", f"{name}-{number}".encode())], **body)
        await harness.until(lambda delivery=delivery: delivery.is_done)  # type: ignore[misc]
    # What the harness itself remembers of them, which in life is in Redis and in Kafka.
    for remembered in (harness.journal, harness.results.sent, harness.dead_letters):
        remembered.clear()
    harness.engine.submitted.clear()
    harness.engine.cancelled.clear()
    harness.store.entries.clear()
    harness.spawner.forget_the_finished()


async def test_after_many_answers_a_worker_holds_no_more_objects_than_after_few() -> None:
    async with running_path() as harness:
        asked: tuple[tuple[str, dict[str, Any]], ...] = (
            ("chat", {"n": 2, "stop": ["zz"]}),
            ("refused", {"temperature": -1}),
            ("cut", {"max_tokens": 1}),
        )
        for name, body in asked:
            await answer(harness, f"{name}-first", count=5, **body)
        before = objects_of_ours()
        for name, body in asked:
            await answer(harness, name, count=25, **body)
        assert objects_of_ours() == before
