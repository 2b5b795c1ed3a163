"""`penstock topics`: what the installation needs of the Kafka cluster: shown, made, or only checked."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.table import Table

from services.cli.console import err, give_up, out, plain_errors
from shared.contracts.errors import BrokerUnavailable
from shared.contracts.topics import TopicSpecification, topic_specifications
from shared.messaging.admin import TopicPlan, ensure_topics, plan_topics
from shared.settings.kafka import KafkaSettings

topics_app = typer.Typer(
    help="Topics of an installation, on the cluster of PENSTOCK_KAFKA_BOOTSTRAP_SERVERS.", no_args_is_help=True
)

PoolOption = Annotated[list[str] | None, typer.Option("--pool", help="Pool to serve; repeat for several.")]
KafkaOption = Annotated[str | None, typer.Option("--kafka", help="HOST:PORT; default: the setting.")]


def _settings(kafka: str | None) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka) if kafka else KafkaSettings()


def _wanted(settings: KafkaSettings, pools: list[str] | None) -> list[TopicSpecification]:
    return topic_specifications(
        settings.topic_names,
        pools=tuple(pools or ("default",)),
        request_partitions=settings.request_partitions,
        max_message_bytes=settings.max_message_bytes,
    )


@topics_app.command()
def plan(pool: PoolOption = None, kafka: KafkaOption = None) -> None:
    """Show every topic that is needed and what the cluster has of it. Changes nothing."""
    settings = _settings(kafka)
    wanted = _wanted(settings, pool)
    found = _ask(settings, wanted)
    out.print(_table(wanted, found))
    for complaint in found.complaints():
        err.print(f"[yellow]-[/] {complaint}")


@topics_app.command()
def apply(pool: PoolOption = None, kafka: KafkaOption = None) -> None:
    """Create the topics and partitions that are missing."""
    settings = _settings(kafka)
    with plain_errors():
        try:
            done = asyncio.run(ensure_topics(settings, _wanted(settings, pool)))
        except BrokerUnavailable as error:
            give_up(error.message)
    out.print(f"{len(done.missing)} topics created, {len(done.too_few_partitions)} given more partitions")


@topics_app.command()
def check(pool: PoolOption = None, kafka: KafkaOption = None) -> None:
    """Exit 1 and name what is missing, for clusters on which we may not create topics."""
    settings = _settings(kafka)
    found = _ask(settings, _wanted(settings, pool))
    for complaint in found.complaints():
        err.print(f"[yellow]-[/] {complaint}")
    if not found.is_satisfied:
        give_up("the cluster lacks topics or partitions", hint="`penstock topics plan` prints what to create")
    out.print("every topic is there with enough partitions")


def _ask(settings: KafkaSettings, wanted: list[TopicSpecification]) -> TopicPlan:
    try:
        return asyncio.run(plan_topics(settings, wanted))
    except BrokerUnavailable as error:
        give_up(error.message, hint="is PENSTOCK_KAFKA_BOOTSTRAP_SERVERS right?")


def _table(wanted: list[TopicSpecification], found: TopicPlan) -> Table:
    missing = {topic.name for topic in found.missing}
    small = {topic.name: count for topic, count in found.too_few_partitions}
    table = Table(title="Topics", title_justify="left")
    for column in ("topic", "partitions", "configuration", "purpose", "cluster"):
        table.add_column(column, justify="right" if column == "partitions" else "left")
    for topic in wanted:
        state = "[red]missing[/]" if topic.name in missing else "[green]there[/]"
        if topic.name in small:
            state = f"[yellow]{small[topic.name]} partitions[/]"
        configuration = " ".join(f"{name}={value}" for name, value in sorted(topic.configs.items()))
        table.add_row(topic.name, str(topic.partitions), configuration, topic.purpose, state)
    return table
