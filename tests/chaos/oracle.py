"""Judges a run: what was accepted against what the topics and the streams hold. Imports nothing of the platform.

Reads the topics from their beginning as a stranger would. The first record of an id is the truth; a later one must be
the same in every byte and every header.
"""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from tests.chaos.asks import ENDING_OF, FAILURE_ASKED_FOR, Ask, Early, Way, answer_flaw, prefix_flaw
from tests.chaos.openai_shapes import result_answers

_CLOCKS_AGREE = 0.7
"""Of the least time that a request takes; two workers' ideas of the time differ by less."""


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
    out_of_order: list[str] = field(default_factory=list)
    """Records of one key, asked for in order, that were sealed in another."""
    convicted: list[tuple[str, Ask]] = field(default_factory=list)
    """Which promise was broken for whom: lost, duplicated, differing or wrong."""
    num_answered: int = 0
    """Requests that have a terminal, asked for or not."""
    num_early: int = 0
    """Requests that were cancelled or expired, as somebody had asked for."""
    num_repeats: int = 0
    """Further records of an id, the same as the first: allowed, and counted."""

    @property
    def num_violations(self) -> int:
        return sum(map(len, (self.lost, self.differing, self.wrong, self.streams, self.unasked, self.out_of_order)))

    def num_duplicated(self) -> int:
        return sum(kind == "duplicated" for kind, _ in self.convicted)

    def convict(self, kind: str, ask: Ask, charge: str) -> None:
        """File a charge where it belongs; a repeated token is counted as such wherever it was seen."""
        lists = {"lost": self.lost, "differing": self.differing, "wrong": self.wrong, "stream": self.streams}
        lists[kind].append(f"{ask.name} ({ask.way}, {ask.lane}, id {ask.request_id}): {charge}")
        self.convicted.append(("duplicated" if "duplicate" in charge else kind, ask))


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


def judge(
    asks: Sequence[Ask],
    results: Sequence[Record],
    dead_letters: Sequence[Record] = (),
    *,
    forgot: Sequence[tuple[float, float]] = (),
    requests: Sequence[Record] = (),
) -> Verdict:
    """`forgot`: from when to when Redis may have lost its data. `requests`: what was really written by strangers."""
    verdict = Verdict()
    by_id: dict[str, list[Record]] = defaultdict(list)
    for record in results:
        by_id[record.header("ce_id")].append(record)
    verdict.num_answered = len(by_id)
    verdict.num_repeats = sum(len(records) - 1 for records in by_id.values())
    claimed: set[str] = set()
    id_of_subject = {records[0].header("ce_subject"): request_id for request_id, records in by_id.items()}
    id_of_source = {record.source: request_id for request_id, records in by_id.items() for record in records}
    twice = _written_twice(asks, requests)
    for ask in asks:
        ids = _ids_of(ask, id_of_subject, id_of_source, [*ask.receipts, *twice.get(ask.name, [])])
        claimed |= ids
        if len(ids) > 1 and ask.name in twice:
            _judge_all(verdict, ask, [by_id[request_id][0] for request_id in sorted(ids)])
            continue
        if len(ids) > 1:
            verdict.convict("differing", ask, f"answered under {len(ids)} ids")
        records = [record for request_id in ids for record in by_id.get(request_id, ())]
        if len({(record.value, record.headers) for record in records}) > 1 and len(ids) == 1:
            verdict.convict("differing", ask, "two terminals that are not the same")
        if records:
            until = math.inf if ask.ended_at is None or ask.has_left else ask.ended_at
            has_forgotten = any(ask.asked_at <= ended and began <= until for began, ended in forgot)
            _judge_terminal(verdict, ask, records[0], has_forgotten=has_forgotten)
        elif ask.is_accepted:
            verdict.convict("lost", ask, "no terminal")
        for problem in heard_problems(ask):
            verdict.convict("stream", ask, problem)
    verdict.unasked += [f"result {request_id}" for request_id in by_id.keys() - claimed]
    verdict.out_of_order += order_problems(asks, by_id, id_of_subject)
    may_fail = {name for ask in asks for name in (ask.name, f"idem:{ask.name}") if ask.may_fail_by(FAILURE_ASKED_FOR)}
    verdict.unasked += [
        f"dead letter: {letter.header('penstock-dead-letter-reason')}"
        for letter in dead_letters
        if letter.header("penstock-dead-letter-code") != FAILURE_ASKED_FOR or letter.header("ce_id") not in may_fail
    ]
    return verdict


def _was_cut_off(ask: Ask) -> bool:
    """A stream that hung up before it was told anything, and could not come back in time: past its deadline its
    question is refused. What nobody reads for five seconds is cancelled."""
    is_late = ask.early is Early.DEADLINE and not ask.arrivals
    return ask.way is Way.STREAM and (is_late or not ask.is_accepted)


def _judge_all(verdict: Verdict, ask: Ask, terminals: Sequence[Record]) -> None:
    for terminal in terminals:
        _judge_terminal(verdict, ask, terminal, has_forgotten=False)


def _written_twice(asks: Sequence[Ask], requests: Sequence[Record]) -> dict[str, list[tuple[str, int, int]]]:
    """Records without a name that their own producer wrote again, when Kafka died before it could acknowledge them:
    they are two questions, and the second one is nobody's fault but has its answer."""
    places: dict[bytes, list[tuple[str, int, int]]] = defaultdict(list)
    for record in requests:
        places[record.value].append((record.topic, record.partition, record.offset))
    found = {}
    for ask in asks:
        if ask.way is Way.KAFKA_NAMELESS:
            written = places.get(json.dumps(ask.body).encode(), [])
            if more := [place for place in written if place not in ask.receipts]:
                found[ask.name] = more
    return found


def _ids_of(
    ask: Ask,
    subjects: dict[str, str],
    sources: dict[tuple[str, int, int], str],
    receipts: Sequence[tuple[str, int, int]],
) -> set[str]:
    if ask.way in (Way.STREAM, Way.AWAIT):
        by_key = subjects.get(f"idem:{ask.name}")
        return {found for found in (ask.request_id, by_key) if found}
    if ask.way is Way.KAFKA_NAMELESS:
        return {sources[receipt] for receipt in receipts if receipt in sources}
    return {subjects[ask.name]} if ask.name in subjects else set()


def _kind_of(terminal: Record) -> str:
    return terminal.header("ce_type").removeprefix("penstock.inference.").removesuffix(".v1")


def _code_of(terminal: Record) -> str:
    return str(json.loads(terminal.value).get("error", {}).get("code", ""))


def _judge_terminal(verdict: Verdict, ask: Ask, terminal: Record, *, has_forgotten: bool) -> None:
    kind = _kind_of(terminal)
    if kind == "cancelled" and _was_cut_off(ask):
        verdict.num_early += 1
    elif kind not in ask.allowed_endings and not (kind == "failed" and ask.may_fail_by(_code_of(terminal))):
        verdict.convict("wrong", ask, f"{kind}: {terminal.value[:200]!r}")
    elif kind != "completed":
        verdict.num_early += 1
        if ask.is_accepted and ask.ended_at is not None and ask.ended_early is None and not ask.has_left:
            verdict.convict("wrong", ask, f"the stream was read to its end, and the terminal says {kind}")
        elif problem := early_usage_problem(ask, json.loads(terminal.value), has_forgotten=has_forgotten):
            verdict.convict("wrong", ask, problem)
    elif problem := result_problem(ask, json.loads(terminal.value)):
        verdict.convict("wrong", ask, problem)
    elif ask.ended_early is not None and ask.early is not None and not ask.is_untold:
        verdict.convict("wrong", ask, f"the stream ended as {ENDING_OF[ask.early]}, and the terminal says completed")


def result_problem(ask: Ask, result: dict[str, Any]) -> str | None:
    """What a result object has that it should not have."""
    answers, completion_tokens = result_answers(result, len(ask.said))
    for index, (said, wanted) in enumerate(zip(answers, ask.wanted.answers, strict=True)):
        if problem := answer_flaw(said, wanted):
            return f"choice {index}: {problem}"
    if completion_tokens != ask.wanted.completion_tokens:
        return f"usage says {completion_tokens} tokens instead of {ask.wanted.completion_tokens}"
    return None


def early_usage_problem(ask: Ask, body: dict[str, Any], *, has_forgotten: bool = False) -> str | None:
    """An early end says how much was used: no more than was asked for, no less than the reader has.

    Once Redis lost its data, progress may be lost with it, and the count begins anew.
    """
    used = body.get("usage", {}).get("completion_tokens")
    heard = sum(len(said.text) for said in ask.said) if ask.body["model"] == "null" and not has_forgotten else 0
    if used is None or not heard <= used <= ask.wanted.completion_tokens:
        return f"the usage so far is {used}; {heard} tokens were heard of {ask.wanted.completion_tokens}"
    return None


def heard_problems(ask: Ask) -> list[str]:
    """What is wrong with what an asker over HTTP has heard; of an early end, with the beginning that came."""
    problems = list(ask.problems)
    if ask.way not in (Way.STREAM, Way.AWAIT) or not ask.is_accepted:
        return problems
    pairs = list(enumerate(zip(ask.said, ask.wanted.answers, strict=True)))
    if ask.ended_early is not None or ask.has_left:
        return problems + [f"choice {i}: {flaw}" for i, (said, wanted) in pairs if (flaw := prefix_flaw(said, wanted))]
    if ask.ended_at is None:
        problems.append("no end")
    problems += [f"choice {i}: {flaw}" for i, (said, wanted) in pairs if (flaw := answer_flaw(said, wanted))]
    if not problems and ask.usage != ask.wanted.completion_tokens:
        problems.append(f"usage says {ask.usage} tokens instead of {ask.wanted.completion_tokens}")
    return problems


def order_problems(asks: Sequence[Ask], by_id: dict[str, list[Record]], id_of_subject: dict[str, str]) -> list[str]:
    """Records of one key that wanted their order: each begins after its forerunner in the partition has ended."""
    by_key: dict[str, list[tuple[int, str, Ask]]] = defaultdict(list)
    for ask in asks:
        if ask.ordered_key is not None and ask.receipts and ask.name in id_of_subject:
            first = by_id[id_of_subject[ask.name]][0]
            by_key[ask.ordered_key].append((ask.receipts[0][2], first.header("ce_time"), ask))
    problems = []
    for key, found in by_key.items():
        found.sort(key=lambda entry: entry[0])
        for before, after in itertools.pairwise(found):
            apart = (datetime.fromisoformat(after[1]) - datetime.fromisoformat(before[1])).total_seconds()
            if apart < 0:
                problems.append(f"{key}: {after[2].name} was sealed before {before[2].name}")
            elif apart < _CLOCKS_AGREE * after[2].least_seconds:
                problems.append(f"{key}: {after[2].name} ran beside {before[2].name}, sealed {apart:.2f} s after it")
    return problems
