"""Looks at the cluster from outside: is it ready, what is it called, does it have the topics we need.

Plans before it acts: `plan_topics` says what is missing or different, `apply_plan` creates what is missing and adds
partitions. It never deletes a topic and never changes a configuration that exists: an operator may have set it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.structs import TopicPartition

from shared.contracts.errors import BrokerUnavailable
from shared.contracts.topics import TopicSpecification
from shared.messaging.connection import connection_arguments
from shared.settings.kafka import KafkaSettings

_PROBE_GROUP = "penstock-readiness-probe"
_RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDifference:
    topic: str
    name: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlan:
    """What the cluster lacks. `too_few_partitions` are (topic with the wanted count, count found)."""

    missing: tuple[TopicSpecification, ...]
    too_few_partitions: tuple[tuple[TopicSpecification, int], ...]
    differences: tuple[ConfigDifference, ...]

    @property
    def is_satisfied(self) -> bool:
        """Every topic exists with at least its partitions. Differing configurations are worth a warning only."""
        return not self.missing and not self.too_few_partitions

    def complaints(self) -> list[str]:
        """One line per finding, naming the topic."""
        return [
            *(f"topic {topic.name} is missing ({topic.purpose})" for topic in self.missing),
            *(
                f"topic {topic.name} has {found} partitions, {topic.partitions} wanted"
                for topic, found in self.too_few_partitions
            ),
            *(
                f"topic {difference.topic} has {difference.name}={difference.found}, {difference.wanted} wanted"
                for difference in self.differences
            ),
        ]


@asynccontextmanager
async def admin_client(settings: KafkaSettings, *, timeout_seconds: float = 10.0) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(request_timeout_ms=int(timeout_seconds * 1000), **connection_arguments(settings))
    try:
        try:
            async with asyncio.timeout(timeout_seconds):  # a frozen broker takes the connection, and says nothing
                await client.start()
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"no broker answers at {settings.bootstrap_servers}") from error
        yield client
    finally:
        await client.close()


async def cluster_id(settings: KafkaSettings) -> str:
    """The configured name of the cluster, else its own id."""
    if settings.cluster:
        return settings.cluster
    async with admin_client(settings) as client:
        return str((await client.describe_cluster())["cluster_id"])


async def wait_until_ready(settings: KafkaSettings, *, timeout_seconds: float = 60.0) -> None:
    """Wait for an answer about metadata *and* from a group coordinator; an open port alone promises neither."""
    give_up_at = time.monotonic() + timeout_seconds
    while True:
        try:
            await _probe(settings)
        except (KafkaError, BrokerUnavailable, OSError, TimeoutError) as error:
            if time.monotonic() >= give_up_at:
                raise BrokerUnavailable(
                    f"Kafka at {settings.bootstrap_servers} is not ready after {timeout_seconds:.0f} s: {error!r}"
                ) from error
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return


async def _probe(settings: KafkaSettings) -> None:
    async with admin_client(settings, timeout_seconds=5.0) as client:
        brokers = (await client.describe_cluster())["brokers"]
        if not brokers:
            raise BrokerUnavailable("the cluster names no brokers yet")
        coordinator = await client.find_coordinator(_PROBE_GROUP)
        await client.list_consumer_group_offsets(
            _PROBE_GROUP, group_coordinator_id=coordinator, partitions=[TopicPartition("probe", 0)]
        )


async def plan_topics(settings: KafkaSettings, wanted: Sequence[TopicSpecification]) -> TopicPlan:
    """Compare the cluster with `wanted`. Reads only."""
    async with admin_client(settings) as client:
        found = {
            topic["topic"]: len(topic["partitions"])
            for topic in await client.describe_topics()
            if not topic["error_code"]
        }
        present = [topic for topic in wanted if topic.name in found]
        configs = await _topic_configs(client, [topic.name for topic in present])
    return TopicPlan(
        missing=tuple(topic for topic in wanted if topic.name not in found),
        too_few_partitions=tuple(
            (topic, found[topic.name]) for topic in present if found[topic.name] < topic.partitions
        ),
        differences=tuple(
            ConfigDifference(topic=topic.name, name=name, wanted=value, found=configs[topic.name].get(name, ""))
            for topic in present
            for name, value in topic.configs.items()
            if configs[topic.name].get(name, "") != value
        ),
    )


async def _topic_configs(client: AIOKafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    answers: list[Any] = await client.describe_configs(resources)
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}
        for answer in answers
        for resource in answer.resources
    }


async def apply_plan(settings: KafkaSettings, plan: TopicPlan) -> None:
    """Create the missing topics and partitions. Another process doing the same at the same time is no error."""
    async with admin_client(settings) as client:
        if plan.missing:
            await _create(client, plan.missing, settings.replication_factor)
        if plan.too_few_partitions:
            await client.create_partitions(
                {topic.name: NewPartitions(total_count=topic.partitions) for topic, _ in plan.too_few_partitions}
            )


async def _create(client: AIOKafkaAdminClient, topics: Sequence[TopicSpecification], replication_factor: int) -> None:
    answer = await client.create_topics(
        [NewTopic(topic.name, topic.partitions, replication_factor, topic_configs=topic.configs) for topic in topics]
    )
    for name, code, message in answer.topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):
            raise BrokerUnavailable(f"could not create topic {name}: {for_code(code).__name__} {message or ''}")


async def ensure_topics(
    settings: KafkaSettings, wanted: Sequence[TopicSpecification], *, timeout_seconds: float = 30.0
) -> TopicPlan:
    """Plan, apply, and wait until every broker's metadata shows the topics. Returns the first plan."""
    plan = await plan_topics(settings, wanted)
    if plan.is_satisfied:
        return plan
    await apply_plan(settings, plan)
    give_up_at = time.monotonic() + timeout_seconds
    while not (await plan_topics(settings, wanted)).is_satisfied:
        if time.monotonic() >= give_up_at:
            raise BrokerUnavailable("topics were created but do not appear in the cluster's metadata")
        await asyncio.sleep(_RETRY_SECONDS)
    return plan
