"""What a request asks of the engine: its place in line, whose prompts it shares, where its choices begin."""

from services.worker.engine.events import Submit
from tests.unit.services.worker.path_harness import POSTED_MS, running_path


async def submitted(*, topic: str = "inference.requests.default.interactive", **headers: bytes) -> Submit:
    """By a record with these headers, after it was claimed."""
    async with running_path() as harness:
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        delivery = harness.post(b'{"prompt": "abc", "max_tokens": 4}', headers=named, topic=topic)
        await harness.until(lambda: delivery.is_done)
        (submit,) = harness.engine.submitted
        return submit


async def test_the_bulk_lane_stands_behind_the_interactive_one() -> None:
    interactive = await submitted(penstock_priority=b"-9")
    bulk = await submitted(topic="inference.requests.default.bulk", penstock_priority=b"9")
    assert interactive.order < bulk.order


async def test_a_higher_priority_stands_before_an_earlier_deadline() -> None:
    urgent = await submitted(penstock_priority=b"1", penstock_deadline_ms=b"%d" % (POSTED_MS + 60_000))
    early = await submitted(penstock_priority=b"0", penstock_deadline_ms=b"%d" % (POSTED_MS + 30_000))
    assert urgent.order < early.order


async def test_of_equal_priority_the_earlier_deadline_stands_first_and_none_is_the_last() -> None:
    early = await submitted(penstock_deadline_ms=b"%d" % (POSTED_MS + 30_000))
    late = await submitted(penstock_deadline_ms=b"%d" % (POSTED_MS + 60_000))
    assert early.order < late.order < (await submitted()).order
    assert early.order[2] == POSTED_MS + 30_000


async def test_prompts_are_shared_within_a_tenant_only() -> None:
    lake, river = await submitted(penstock_tenant=b"lake"), await submitted(penstock_tenant=b"river")
    assert (lake.cache_salt, river.cache_salt) == ("lake", "river")
    assert (await submitted(penstock_tenant=b"lake")).cache_salt == lake.cache_salt
