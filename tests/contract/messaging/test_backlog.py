"""How many records a group has left, asked from outside."""

import pytest

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.backlog import GroupBacklog
from shared.settings.kafka import KafkaSettings
from tests.fixtures.kafka_harness import KafkaHarness

pytestmark = pytest.mark.kafka


async def test_what_a_group_has_not_committed_is_left(harness: KafkaHarness) -> None:
    first, second = await harness.create("first", partitions=2), await harness.create("second")
    await harness.post(first, [b"a", b"b", b"c"])
    await harness.post(second, [b"d"] * 4)
    async with GroupBacklog(harness.settings, client_id="test") as backlog:
        assert await backlog.records(harness.group, [first, second]) == 7
        async with harness.source(first, second) as running:
            running.finishes_at_once = True
            await running.until_delivered(7)
        assert await backlog.records(harness.group, [first, second]) == 0
        await harness.post(first, [b"e"], partition=1)
        assert await backlog.records(harness.group, [first, second]) == 1


async def test_without_a_broker_it_says_so() -> None:
    with pytest.raises(BrokerUnavailable):
        async with GroupBacklog(KafkaSettings(bootstrap_servers="127.0.0.1:1"), client_id="test"):
            pass
