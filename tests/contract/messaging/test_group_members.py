"""What we assume of Kafka's group coordinator when we take a dead member out."""

import time

import pytest

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.group_members import GroupMember, GroupMembers
from shared.settings.kafka import KafkaSettings
from tests.fixtures.kafka_harness import KafkaHarness, until

pytestmark = pytest.mark.kafka


async def test_the_members_of_a_group_are_known_by_their_client_ids(harness: KafkaHarness) -> None:
    topic = await harness.create("members")
    async with GroupMembers(harness.settings) as members:
        assert await members.of(harness.group) == []
        async with harness.source(topic, name="w.0123456789ab") as running:
            await running.until_assigned(1)
            assert [member.client_id for member in await members.of(harness.group)] == ["test-w.0123456789ab"]


async def test_a_dismissed_member_s_partitions_move_at_once_and_not_after_its_session(harness: KafkaHarness) -> None:
    topic = await harness.create("dismissed", partitions=2)
    async with (
        GroupMembers(harness.settings) as members,
        harness.source(topic, name="dead") as dead,
        harness.source(topic, name="heir") as heir,
    ):
        await until(lambda: len(heir.source.assignment) == 1 == len(dead.source.assignment), what="shared out")
        # What a SIGKILL does to a consumer as the broker sees it: no heartbeat, no goodbye.
        consumer = dead.source._consumer
        assert consumer is not None
        consumer._coordinator._heartbeat_task.cancel()
        consumer._coordinator._coordination_task.cancel()
        found = {member.client_id: member for member in await members.of(harness.group)}
        started = time.monotonic()
        assert await members.dismiss(harness.group, found["test-dead"])
        await heir.until_assigned(2)
        assert time.monotonic() - started < harness.settings.session_timeout_ms / 2_000


async def test_a_member_dismissed_by_mistake_joins_again(harness: KafkaHarness) -> None:
    topic = await harness.create("mistake")
    async with GroupMembers(harness.settings) as members, harness.source(topic, name="alive") as running:
        await running.until_assigned(1)
        epoch = running.source.epoch
        (member,) = await members.of(harness.group)
        assert await members.dismiss(harness.group, member)
        await until(lambda: running.source.epoch > epoch and running.source.assignment, what="joined again")
        await harness.post(topic, [b"after"])
        await running.until_delivered(1)


async def test_who_is_not_in_the_group_cannot_be_dismissed(harness: KafkaHarness) -> None:
    topic = await harness.create("absent")
    async with GroupMembers(harness.settings) as members, harness.source(topic) as running:
        await running.until_assigned(1)
        stranger = GroupMember(member_id="nobody-1", client_id="nobody")
        assert not await members.dismiss(harness.group, stranger)


async def test_no_broker_is_said_in_our_words() -> None:
    with pytest.raises(BrokerUnavailable):
        async with GroupMembers(KafkaSettings(bootstrap_servers="127.0.0.1:1")):
            pass
