"""`penstock dlq` against a real Kafka: looking changes nothing, replaying and purging need a yes."""

import asyncio
import uuid
from collections.abc import Callable, Sequence

import pytest
from typer.testing import CliRunner, Result

from services.cli.__main__ import app
from shared.contracts.errors import PoisonMessage, UnknownModel
from shared.contracts.requests import Lane
from shared.contracts.topics import topic_specifications
from shared.messaging.admin import ensure_topics
from shared.messaging.dead_letter import publish_dead_letter
from shared.messaging.producer import RecordProducer
from shared.messaging.records import SourceRecord
from shared.messaging.topic_reading import read_topic
from shared.settings.kafka import KafkaSettings

pytestmark = pytest.mark.kafka

Dlq = Callable[..., Result]


@pytest.fixture
def kafka(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    monkeypatch.setenv("PENSTOCK_KAFKA_TOPIC_PREFIX", f"d{uuid.uuid4().hex[:8]}.")
    settings = KafkaSettings(bootstrap_servers=kafka_bootstrap)
    asyncio.run(
        ensure_topics(settings, topic_specifications(settings.topic_names, pools=("default",), request_partitions=1))
    )
    return settings


@pytest.fixture
def dlq(kafka: KafkaSettings) -> Dlq:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["dlq", *arguments, "--kafka", kafka.bootstrap_servers], env={"COLUMNS": "200"})

    return run


async def bury(kafka: KafkaSettings, *deaths: tuple[bytes, PoisonMessage | UnknownModel]) -> None:
    topic = kafka.topic_names.requests("default", Lane.BULK)
    async with RecordProducer(kafka, client_id="test") as producer:
        for offset, (value, error) in enumerate(deaths):
            record = SourceRecord(
                topic=topic, partition=0, offset=offset, timestamp_ms=1, key=b"k", value=value, headers=(("x", b"y"),)
            )
            await publish_dead_letter(producer, kafka.topic_names, record, error=error, now_ms=1_700_000_000_000)


async def records_in(kafka: KafkaSettings, topic: str) -> Sequence[SourceRecord]:
    return [record async for record in read_topic(kafka, topic)]


@pytest.fixture
def two_letters(kafka: KafkaSettings) -> KafkaSettings:
    asyncio.run(bury(kafka, (b"\xffone", PoisonMessage("it is not JSON")), (b"two", UnknownModel("no such model"))))
    return kafka


def names_of_letters(kafka: KafkaSettings) -> dict[bytes, str]:
    letters = asyncio.run(records_in(kafka, kafka.topic_names.dead_letters))
    return {letter.value or b"": f"{letter.partition}@{letter.offset}" for letter in letters}


def test_letters_are_listed_with_their_reasons_and_filtered(two_letters: KafkaSettings, dlq: Dlq) -> None:
    everything = dlq("list").output
    assert "it is not JSON" in everything
    assert "no such model" in everything
    chosen = dlq("list", "--code", UnknownModel.code).output
    assert "it is not JSON" not in chosen
    assert "no such model" in chosen
    assert "Dead letters: 0" in dlq("list", "--since-hours", "1").output


def test_one_letter_is_shown_with_its_headers_and_its_very_bytes(two_letters: KafkaSettings, dlq: Dlq) -> None:
    shown = dlq("show", names_of_letters(two_letters)[b"\xffone"])
    assert b"\xffone" in shown.stdout_bytes
    assert "'x': b'y'" in shown.output
    missing = dlq("show", "0@999")
    assert missing.exit_code == 1
    assert "no dead letter is at 0@999" in missing.output


def test_a_replay_without_yes_posts_nothing(two_letters: KafkaSettings, dlq: Dlq) -> None:
    assert "2 would be replayed" in dlq("replay").output
    topic = two_letters.topic_names.requests("default", Lane.BULK)
    assert asyncio.run(records_in(two_letters, topic)) == []


def test_a_replay_posts_the_chosen_letters_where_they_came_from(two_letters: KafkaSettings, dlq: Dlq) -> None:
    name = names_of_letters(two_letters)[b"two"]
    assert "1 replayed" in dlq("replay", name, "--yes").output
    (record,) = asyncio.run(records_in(two_letters, two_letters.topic_names.requests("default", Lane.BULK)))
    assert (record.key, record.value) == (b"k", b"two")
    assert record.headers == (("x", b"y"), ("penstock-replay-of", name.encode()))


def test_letters_can_be_replayed_to_another_topic(two_letters: KafkaSettings, dlq: Dlq) -> None:
    topic = two_letters.topic_names.requests("default", Lane.INTERACTIVE)
    dlq("replay", "--containing", "json", "--to", topic, "--yes")
    assert [record.value for record in asyncio.run(records_in(two_letters, topic))] == [b"\xffone"]


def test_a_purge_forgets_what_is_there_and_only_with_a_yes(two_letters: KafkaSettings, dlq: Dlq) -> None:
    assert "2 would be forgotten" in dlq("purge").output
    assert "Dead letters: 2" in dlq("list").output
    assert "2 forgotten" in dlq("purge", "--yes").output
    assert "Dead letters: 0" in dlq("list").output
    asyncio.run(bury(two_letters, (b"three", PoisonMessage("later"))))
    assert "later" in dlq("list").output


def test_a_purge_forgets_the_chosen_letters_and_keeps_the_others(two_letters: KafkaSettings, dlq: Dlq) -> None:
    asyncio.run(bury(two_letters, (b"three", PoisonMessage("the last one"))))
    shown = dlq("purge", "--containing", "the last")
    assert "the last one" in shown.output
    assert "1 would be forgotten, 2 moved" in shown.output
    assert "Dead letters: 3" in dlq("list").output
    assert "1 forgotten, 2 moved" in dlq("purge", "--containing", "the last", "--yes").output
    kept = asyncio.run(records_in(two_letters, two_letters.topic_names.dead_letters))
    assert [letter.value for letter in kept] == [b"\xffone", b"two"]
    assert "it is not JSON" in dlq("list").output
    assert "0 forgotten, 0 moved" in dlq("purge", "--code", "no_such_code", "--yes").output


def test_no_cluster_is_one_sentence() -> None:
    result = CliRunner().invoke(app, ["dlq", "list", "--kafka", "127.0.0.1:9"])
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.output
