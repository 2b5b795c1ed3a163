"""Judges a run: what was accepted against what the topics and the streams hold. Imports nothing of the platform.

Reads the topics from their beginning as a stranger would. The first record of an id is the truth; a later one must be
the same in every byte and every header.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Consumer, TopicPartition

from tests.chaos.asks import Ask, Way, flaw


@dataclass(frozen=True, slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]

    def header(self, name: str) -> str:
        return next(((value or b"").decode() for key, value in self.headers if key == name), "")

    @property
    def source(self) -> tuple[str, int, int]:
        partition, offset = self.header("penstock-source-partition"), self.header("penstock-source-offset")
        return self.header("penstock-source-topic"), int(partition or -1), int(offset or -1)


@dataclass(slots=True)
class Verdict:
    lost: list[str] = field(default_factory=list)
    """Accepted, and no terminal."""
    differing: list[str] = field(default_factory=list)
    """Two terminals of one id that are not the same."""
    wrong: list[str] = field(default_factory=list)
    """A terminal that is not the completion that was asked for."""
    streams: list[str] = field(default_factory=list)
    """Streams with a gap, a repeat, another token, an error or without an end."""
    unasked: list[str] = field(default_factory=list)
    """Results and dead letters that nobody asked for."""
    num_repeats: int = 0
    """Further records of an id, the same as the first: allowed, and counted."""

    @property
    def num_violations(self) -> int:
        return sum(map(len, (self.lost, self.differing, self.wrong, self.streams, self.unasked)))

    def num_duplicated(self) -> int:
        return sum("duplicate" in line for line in self.streams)


def read_topic(bootstrap_servers: str, topic: str) -> list[Record]:
    """Everything from the beginning to the present end."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "chaos-oracle",
            "log_level": 0,
            "enable.auto.commit": False,
        }
    )
    try:
        numbers = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        found: list[Record] = []
        for number in numbers:
            found += _read_partition(consumer, topic, number)
        return found
    finally:
        consumer.close()


def _read_partition(consumer: Consumer, topic: str, number: int) -> Iterable[Record]:
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20)
    consumer.assign([TopicPartition(topic, number, low)])
    next_offset, patience = low, 200
    while next_offset < high and patience:
        messages = consumer.consume(1_000, timeout=0.1)
        patience -= not messages
        for message in messages:
            if message.error() is None:
                next_offset = message.offset() + 1
                pairs = tuple((key, value) for key, value in message.headers() or ())
                yield Record(topic, number, message.offset(), message.value() or b"", pairs)
    if next_offset < high:
        raise RuntimeError(f"{topic}[{number}] could not be read beyond {next_offset} of {high}")


def judge(asks: Sequence[Ask], results: Sequence[Record], dead_letters: Sequence[Record] = ()) -> Verdict:
    verdict = Verdict()
    by_id: dict[str, list[Record]] = defaultdict(list)
    for record in results:
        by_id[record.header("ce_id")].append(record)
    for request_id, records in by_id.items():
        verdict.num_repeats += len(records) - 1
        kinds = Counter((record.value, record.headers) for record in records)
        if len(kinds) > 1:
            verdict.differing.append(f"{request_id}: {len(kinds)} different terminals")
    claimed: set[str] = set()
    id_of_subject = {records[0].header("ce_subject"): request_id for request_id, records in by_id.items()}
    id_of_source = {record.source: request_id for request_id, records in by_id.items() for record in records}
    for ask in asks:
        ids = _ids_of(ask, id_of_subject, id_of_source)
        claimed |= ids
        if len(ids) > 1:
            verdict.differing.append(f"{ask.name}: answered under {len(ids)} ids")
        records = [record for request_id in ids for record in by_id.get(request_id, ())]
        if not records:
            if ask.is_accepted:
                verdict.lost.append(f"{ask.name} ({ask.way}, {ask.lane}, id {ask.request_id})")
            continue
        if problem := _problem_of(ask, records[0]):
            verdict.wrong.append(f"{ask.name} ({ask.way}, id {records[0].header('ce_id')}): {problem}")
    for ask in asks:
        if ask.way is Way.STREAM and ask.is_accepted:
            verdict.streams += [f"{ask.name} (id {ask.request_id}): {problem}" for problem in stream_problems(ask)]
        elif ask.problems:
            verdict.streams += [f"{ask.name}: {problem}" for problem in ask.problems]
    verdict.unasked += [f"result {request_id}" for request_id in by_id.keys() - claimed]
    verdict.unasked += [f"dead letter: {letter.header('penstock-dead-letter-reason')}" for letter in dead_letters]
    return verdict


def _ids_of(ask: Ask, subjects: dict[str, str], sources: dict[tuple[str, int, int], str]) -> set[str]:
    if ask.way in (Way.STREAM, Way.AWAIT):
        by_key = subjects.get(f"idem:{ask.name}")
        return {found for found in (ask.request_id, by_key) if found}
    if ask.way is Way.KAFKA_NAMELESS:
        return {sources[receipt] for receipt in ask.receipts if receipt in sources}
    return {subjects[ask.name]} if ask.name in subjects else set()


def _problem_of(ask: Ask, terminal: Record) -> str | None:
    """What a terminal has that it should not have; None when it is the completion that was asked for."""
    kind = terminal.header("ce_type").removeprefix("penstock.inference.").removesuffix(".v1")
    if kind != "completed":
        return f"{kind}: {terminal.value[:200]!r}"
    body = json.loads(terminal.value)
    said = {choice["index"]: choice["message"]["content"] for choice in body["choices"]}
    for index, expected in enumerate(ask.expected_texts):
        if problem := flaw(said.get(index, ""), expected):
            return f"choice {index}: {problem}"
    if body["usage"]["completion_tokens"] != ask.num_tokens * ask.num_choices:
        return f"usage says {body['usage']['completion_tokens']} tokens"
    return None


def stream_problems(ask: Ask) -> list[str]:
    problems = list(ask.problems)
    if ask.ended_at is None:
        problems.append("no end")
    for index, (said, expected) in enumerate(zip(ask.texts, ask.expected_texts, strict=True)):
        if problem := flaw(said, expected):
            problems.append(f"choice {index}: {problem}")
        elif ask.finish_reasons.get(index) != "length":
            problems.append(f"choice {index}: finish reason {ask.finish_reasons.get(index)}")
    return problems
