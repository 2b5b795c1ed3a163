"""The whole worker with its null engine on real Kafka and real Redis: what goes in as records comes out as results."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import httpx
import pytest
from aiokafka import AIOKafkaConsumer

from services.cli.embedded.ports import free_port
from services.worker.application import Worker, build_worker
from services.worker.settings import WorkerSettings
from shared.contracts.events import Outcome
from shared.contracts.fleet import FleetCommand, FleetCommandKind, WorkerState
from shared.contracts.identifiers import RequestId
from shared.contracts.outcome_codec import decode_outcome
from shared.contracts.request_codec import encode_request
from shared.contracts.requests import InferenceRequest, Lane, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.topics import TopicSpecification, topic_specifications
from shared.ledger.ledger import Ledger
from shared.ledger.records import RequestState
from shared.messaging.admin import ensure_topics
from shared.messaging.broker import control_broker
from shared.messaging.producer import RecordProducer
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
DEADLINE_SECONDS = 60.0


class Installation:
    """Topics of our own on the shared servers, a producer, and everything that was answered."""

    def __init__(self, kafka: KafkaSettings, redis: RedisSettings) -> None:
        self.kafka = kafka
        self.redis = redis
        self.names = kafka.topic_names
        self.requests = self.names.requests("default", Lane.INTERACTIVE)
        self.records: dict[str, list[dict[str, object]]] = {}
        self._arrived = asyncio.Event()
        self.producer = RecordProducer(kafka, client_id="test")

    def settings(self, **options: object) -> WorkerSettings:
        return WorkerSettings(**{"engine": "null", "name": f"w-{uuid.uuid4().hex[:6]}", **options})

    async def post(
        self, value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = (), topic: str | None = None
    ) -> None:
        await self.producer.send(topic or self.requests, key=None, value=value, headers=headers)

    async def ask(self, name: str, *, max_tokens: int = 8, **extra: object) -> None:
        body = {"prompt": f"tell me about {name}", "max_tokens": max_tokens, **extra}
        await self.post(json.dumps(body).encode(), [("ce_id", name.encode())])

    async def collect(self, topics: Sequence[str]) -> None:
        consumer = AIOKafkaConsumer(
            *topics, bootstrap_servers=self.kafka.bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            async for record in consumer:
                headers = dict(record.headers)
                self.records.setdefault(record.topic, []).append({"value": record.value, "headers": headers})
                self._arrived.set()
        finally:
            await consumer.stop()

    @property
    def results(self) -> list[dict[str, object]]:
        return self.records.get(self.names.results, [])

    @property
    def dead_letters(self) -> list[dict[str, object]]:
        return self.records.get(self.names.dead_letters, [])

    def result_of(self, name: str) -> dict[str, object]:
        found = [entry for entry in self.results if entry["headers"].get("ce_subject") == name.encode()]
        assert len(found) == 1, f"{len(found)} results of {name}"
        return found[0]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()


@pytest.fixture
async def installation(kafka_bootstrap: str, redis_url: str) -> AsyncIterator[Installation]:
    unique = uuid.uuid4().hex[:8]
    kafka = KafkaSettings(
        bootstrap_servers=kafka_bootstrap,
        topic_prefix=f"{unique}.",
        group_prefix=f"{unique}.",
        request_partitions=4,
        session_timeout_ms=6_000,
    )
    redis = RedisSettings(url=redis_url, key_prefix=f"{unique}:")
    names = kafka.topic_names
    replies = TopicSpecification(name=f"{unique}.replies", partitions=1, purpose="test")
    wanted = [*topic_specifications(names, pools=("default",), request_partitions=4), replies]
    await ensure_topics(kafka, wanted)
    installation = Installation(kafka, redis)
    collecting = asyncio.create_task(
        installation.collect([names.results, names.dead_letters, names.resume("default"), replies.name])
    )
    async with installation.producer:
        yield installation
    collecting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await collecting


@contextlib.asynccontextmanager
async def running(installation: Installation, **options: object) -> AsyncIterator[Worker]:
    """A worker that is drained at the end; its exit status is checked."""
    stopping = asyncio.Event()
    async with build_worker(installation.settings(**options), installation.kafka, installation.redis) as worker:
        task = asyncio.create_task(worker.run(stopping))
        try:
            yield worker
        finally:
            stopping.set()
            assert await asyncio.wait_for(task, DEADLINE_SECONDS) == 0


async def test_a_json_record_is_answered_in_json_with_its_producers_headers(installation: Installation) -> None:
    async with running(installation):
        await installation.ask("json")
        await installation.until(lambda: len(installation.results) == 1)
    result = installation.result_of("json")
    body = json.loads(result["value"])
    assert body["object"] == "text_completion"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 8
    assert len(body["choices"][0]["text"]) == 8


async def test_a_protobuf_record_is_answered_in_protobuf(installation: Installation) -> None:
    request = InferenceRequest(
        kind=RequestKind.COMPLETION,
        model=None,
        prompts=(Prompt(text="hello"),),
        sampling=SamplingParameters(max_tokens=5),
    )
    async with running(installation):
        headers = [("content-type", b"application/protobuf"), ("ce_id", b"proto")]
        await installation.post(encode_request(request), headers)
        await installation.until(lambda: len(installation.results) == 1)
    outcome = decode_outcome(installation.results[0]["value"])
    assert outcome.outcome is Outcome.COMPLETED
    assert outcome.usage is not None
    assert outcome.usage.completion_tokens == 5


async def test_garbage_between_good_records_becomes_dead_letters_and_stops_nothing(
    installation: Installation,
) -> None:
    garbage = [b"\xff\xfe\x00garbage", b'{"prompt": "broken', None, b"[1, 2, 3]"]
    async with running(installation):
        for number, value in enumerate(garbage):
            await installation.ask(f"good-{number}")
            await installation.post(value, [("x-null", None), ("x-bytes", b"\xff\xfe")])
        await installation.post(b"\x08\x96\xff", [("content-type", b"application/protobuf")])
        await installation.until(lambda: len(installation.results) >= 4 and len(installation.dead_letters) >= 5)
    assert {entry["value"] for entry in installation.dead_letters} >= {garbage[0], garbage[1], garbage[3]}
    assert all(entry["headers"]["penstock-dead-letter-reason"] for entry in installation.dead_letters)
    for number in range(len(garbage)):
        assert json.loads(installation.result_of(f"good-{number}")["value"])["choices"]


async def test_a_record_that_is_understood_and_invalid_gets_a_failed_result_that_names_the_field(
    installation: Installation,
) -> None:
    async with running(installation, max_model_tokens=64):
        await installation.ask("hot", temperature=99)
        await installation.ask("model", model="gpt-none")
        await installation.ask("long", max_tokens=60)
        await installation.post(json.dumps({"prompt": [99_999], "max_tokens": 1}).encode(), [("ce_id", b"ids")])
        await installation.until(lambda: len(installation.results) == 4)
    errors = {
        name: json.loads(installation.result_of(name)["value"])["error"] for name in ("hot", "model", "long", "ids")
    }
    assert errors["hot"]["param"] == "temperature"
    assert (errors["model"]["code"], errors["model"]["param"]) == ("model_not_found", "model")
    assert (errors["long"]["code"], errors["long"]["param"]) == ("context_length_exceeded", "prompt")
    assert errors["ids"]["param"] == "prompt"
    assert not installation.dead_letters


async def test_a_thousand_records_posted_while_no_worker_is_up_are_all_answered_once(
    installation: Installation,
) -> None:
    await asyncio.gather(*(installation.ask(f"early-{number}") for number in range(1_000)))
    async with running(installation, max_running_requests=128):
        await installation.until(lambda: len(installation.results) >= 1_000)
    subjects = [entry["headers"]["ce_subject"] for entry in installation.results]
    assert len(subjects) == len(set(subjects)) == 1_000


async def test_the_reply_topic_gets_the_same_event_and_a_missing_one_is_in_nobodys_way(
    installation: Installation,
) -> None:
    replies = f"{installation.kafka.topic_prefix}replies"
    body = json.dumps({"prompt": "hi", "max_tokens": 3}).encode()
    async with running(installation, reply_timeout_seconds=1.0):
        await installation.post(body, [("ce_id", b"a"), ("penstock-reply-to", replies.encode())])
        await installation.post(body, [("ce_id", b"b"), ("penstock-reply-to", b"no-such-topic")])
        await installation.until(
            lambda: len(installation.results) == 2 and len(installation.records.get(replies, [])) == 1
        )
    assert installation.records[replies][0] == installation.result_of("a")


async def test_two_workers_share_the_work_and_never_contradict_each_other(installation: Installation) -> None:
    async with running(installation) as first, running(installation) as second:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while {first._load().state, second._load().state} != {WorkerState.READY}:
                await asyncio.sleep(0.05)
        await asyncio.gather(*(installation.ask(f"shared-{number}") for number in range(100)))
        await installation.until(lambda: len({entry["headers"]["ce_id"] for entry in installation.results}) >= 100)
    # The rebalance may have shown a sealed outcome to two holders: then both published, the very same bytes.
    assert len({(entry["headers"]["ce_id"], entry["value"]) for entry in installation.results}) == 100


async def test_a_request_whose_engine_is_killed_gets_the_same_tokens_as_without(
    installation: Installation,
) -> None:
    body = {"prompt": "the same", "max_tokens": 60, "seed": 11, "n": 2, "return_token_ids": True}
    async with running(installation, null_step_ms=20.0) as worker:
        await installation.post(json.dumps(body).encode(), [("ce_id", b"undisturbed")])
        await installation.until(lambda: len(installation.results) == 1)
        await installation.post(json.dumps(body).encode(), [("ce_id", b"disturbed")])
        async with asyncio.timeout(DEADLINE_SECONDS):
            while worker._load().num_running == 0 or worker._observations.rate.per_second(0) == 0:
                await asyncio.sleep(0.01)
            assert worker._path is not None
            while not any(
                len(choice.token_ids) >= 5 for run in worker._path.emitter._running.values() for choice in run.choices
            ):
                await asyncio.sleep(0.01)
        worker._engine.kill()
        await installation.until(lambda: len(installation.results) == 2)
        assert worker._engine.num_restarts == 1
    first, second = (
        json.loads(installation.result_of(name)["value"])["choices"] for name in ("undisturbed", "disturbed")
    )
    assert first == second
    assert first[0]["text"] != first[1]["text"]


async def test_a_drained_worker_hands_its_running_requests_over_from_their_last_token(
    installation: Installation,
) -> None:
    body = json.dumps({"prompt": "long one", "max_tokens": 300}).encode()
    async with running(installation, null_step_ms=20.0, drain_seconds=0.0) as worker:
        await installation.post(body, [("ce_id", b"handed over")])
        async with asyncio.timeout(DEADLINE_SECONDS):
            while worker._load().num_running == 0:
                await asyncio.sleep(0.01)
    resume = installation.names.resume("default")
    await installation.until(lambda: len(installation.records.get(resume, [])) == 1)
    assert not installation.results
    async with running(installation):
        await installation.until(lambda: len(installation.results) == 1)
    result = installation.result_of("handed over")
    assert json.loads(result["value"])["usage"]["completion_tokens"] == 300


async def test_a_cancellation_posted_to_its_topic_ends_a_running_request(installation: Installation) -> None:
    body = json.dumps({"prompt": "endless", "max_tokens": 5_000}).encode()
    async with running(installation, null_step_ms=20.0) as worker:
        await installation.post(body, [("ce_id", b"unwanted")])
        async with asyncio.timeout(DEADLINE_SECONDS):
            while worker._load().num_running == 0:
                await asyncio.sleep(0.01)
        assert worker._path is not None
        request_id = RequestId(next(iter(worker._path.emitter._running)))
        async with control_broker(installation.kafka, client_id="canceller") as broker:
            await broker.publish_cancellation(request_id, tenant=None, reason="changed my mind")
        await installation.until(lambda: len(installation.results) == 1)
    headers = installation.result_of("unwanted")["headers"]
    assert headers["ce_type"] == b"penstock.inference.cancelled.v1"
    async with Ledger(installation.redis) as ledger:
        record = await ledger.describe(request_id)
    assert record is not None
    assert record.state is RequestState.FINISHED


async def test_a_deadline_that_passes_while_running_ends_as_expired_with_the_tokens_so_far(
    installation: Installation,
) -> None:
    body = json.dumps({"prompt": "slow", "max_tokens": 5_000}).encode()
    async with running(installation, null_step_ms=20.0) as worker:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while worker._load().state is not WorkerState.READY or not worker._source.assignment:
                await asyncio.sleep(0.05)
        deadline_ms = int(time.time() * 1_000) + 3_000
        await installation.post(body, [("ce_id", b"late"), ("penstock-deadline-ms", str(deadline_ms).encode())])
        await installation.until(lambda: len(installation.results) == 1)
    headers = installation.result_of("late")["headers"]
    assert headers["ce_type"] == b"penstock.inference.expired.v1"


async def test_a_worker_that_starts_without_kafka_lives_and_waits_for_it(installation: Installation) -> None:
    """Bootstrapped through a port at which nobody listens yet."""
    host, port = installation.kafka.bootstrap_servers.rsplit(":", 1)
    door = free_port()
    away = installation.kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{door}"})
    async with build_worker(installation.settings(), away, installation.redis) as worker:
        stopping = asyncio.Event()
        task = asyncio.create_task(worker.run(stopping))
        await asyncio.sleep(1.0)
        assert not task.done()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{worker.health.port}") as client:
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503
        async with await asyncio.start_server(partial(_forward, host, int(port)), "127.0.0.1", door):
            async with asyncio.timeout(DEADLINE_SECONDS):
                while worker._load().state is not WorkerState.READY:
                    await asyncio.sleep(0.05)
            stopping.set()
            assert await asyncio.wait_for(task, DEADLINE_SECONDS) == 0


async def test_a_worker_that_waits_for_kafka_can_be_stopped(installation: Installation) -> None:
    nobody = installation.kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{free_port()}"})
    async with build_worker(installation.settings(), nobody, installation.redis) as worker:
        stopping = asyncio.Event()
        task = asyncio.create_task(worker.run(stopping))
        await asyncio.sleep(0.3)
        stopping.set()
        assert await asyncio.wait_for(task, 5.0) == 0


async def _forward(host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    far_reader, far_writer = await asyncio.open_connection(host, port)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                sink.write(data)
        sink.close()

    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def test_the_command_drain_ends_the_worker_it_names_and_no_other(installation: Installation) -> None:
    async with build_worker(installation.settings(), installation.kafka, installation.redis) as worker:
        task = asyncio.create_task(worker.run(asyncio.Event()))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while worker._load().state is not WorkerState.READY:
                await asyncio.sleep(0.05)
        async with control_broker(installation.kafka, client_id="supervisor") as broker:
            for name in ("somebody-else", worker.worker_id):
                assert not task.done()
                await broker.publish_command(
                    FleetCommand(kind=FleetCommandKind.DRAIN, worker_id=name, issued_at_ms=0, reason="test")
                )
        assert await asyncio.wait_for(task, DEADLINE_SECONDS) == 0
        assert worker.state is WorkerState.STOPPED
