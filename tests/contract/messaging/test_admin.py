"""Topic administration on Apache Kafka: what is missing or different is named; what exists is left alone."""

import pytest

from shared.contracts.errors import BrokerUnavailable
from shared.contracts.topics import TopicSpecification, topic_specifications
from shared.messaging.admin import apply_plan, cluster_id, ensure_topics, plan_topics, wait_until_ready
from shared.settings.kafka import KafkaSettings

pytestmark = pytest.mark.kafka


def _specification(settings: KafkaSettings, partitions: int = 2, **configs: str) -> TopicSpecification:
    return TopicSpecification(
        name=f"{settings.topic_prefix}one", partitions=partitions, purpose="a test", configs=configs
    )


async def test_a_missing_topic_is_named_created_and_then_no_longer_missing(kafka_settings: KafkaSettings) -> None:
    wanted = [_specification(kafka_settings)]
    plan = await plan_topics(kafka_settings, wanted)
    assert not plan.is_satisfied
    assert plan.complaints() == [f"topic {kafka_settings.topic_prefix}one is missing (a test)"]
    await apply_plan(kafka_settings, plan)
    await ensure_topics(kafka_settings, wanted)  # waits until the metadata shows it
    assert (await plan_topics(kafka_settings, wanted)).complaints() == []


async def test_too_few_partitions_are_named_and_added(kafka_settings: KafkaSettings) -> None:
    await ensure_topics(kafka_settings, [_specification(kafka_settings, 2)])
    plan = await ensure_topics(kafka_settings, [_specification(kafka_settings, 5)])
    assert plan.complaints() == [f"topic {kafka_settings.topic_prefix}one has 2 partitions, 5 wanted"]
    assert (await plan_topics(kafka_settings, [_specification(kafka_settings, 5)])).is_satisfied


async def test_more_partitions_than_wanted_are_left_alone(kafka_settings: KafkaSettings) -> None:
    await ensure_topics(kafka_settings, [_specification(kafka_settings, 5)])
    assert (await plan_topics(kafka_settings, [_specification(kafka_settings, 2)])).complaints() == []


async def test_a_differing_configuration_is_named_and_never_changed(kafka_settings: KafkaSettings) -> None:
    before = {"retention.ms": "3600000"}
    await ensure_topics(kafka_settings, [_specification(kafka_settings, **before)])
    wanted = [_specification(kafka_settings, **{"retention.ms": "60000"})]
    plan = await ensure_topics(kafka_settings, wanted)
    assert plan.is_satisfied
    complaint = f"topic {kafka_settings.topic_prefix}one has retention.ms=3600000, 60000 wanted"
    assert plan.complaints() == [complaint]
    assert (await plan_topics(kafka_settings, wanted)).complaints() == [complaint]


async def test_creating_what_somebody_else_created_meanwhile_is_no_error(kafka_settings: KafkaSettings) -> None:
    plan = await plan_topics(kafka_settings, [_specification(kafka_settings)])
    await apply_plan(kafka_settings, plan)
    await apply_plan(kafka_settings, plan)


async def test_an_impossible_configuration_names_the_topic(kafka_settings: KafkaSettings) -> None:
    impossible = _specification(kafka_settings, **{"retention.ms": "soon"})
    with pytest.raises(BrokerUnavailable, match=impossible.name):
        await ensure_topics(kafka_settings, [impossible])


async def test_every_topic_of_an_installation_can_be_created(kafka_settings: KafkaSettings) -> None:
    wanted = topic_specifications(kafka_settings.topic_names, pools=("default", "small"), request_partitions=3)
    plan = await ensure_topics(kafka_settings, wanted)
    assert len(plan.missing) == len(wanted)
    assert (await plan_topics(kafka_settings, wanted)).complaints() == []


async def test_the_cluster_names_itself_unless_the_settings_do(kafka_settings: KafkaSettings) -> None:
    own = await cluster_id(kafka_settings)
    assert len(own) == 22
    assert await cluster_id(kafka_settings.model_copy(update={"cluster": "mine"})) == "mine"


async def test_readiness_is_waited_for_only_so_long() -> None:
    with pytest.raises(BrokerUnavailable, match="not ready"):
        await wait_until_ready(KafkaSettings(bootstrap_servers="127.0.0.1:1"), timeout_seconds=0.3)


async def test_a_ready_cluster_is_ready_at_once(kafka_settings: KafkaSettings) -> None:
    await wait_until_ready(kafka_settings, timeout_seconds=5.0)
