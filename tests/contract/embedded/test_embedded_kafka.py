"""The embedded Apache Kafka: starts, keeps its data, ends with its parent."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from services.cli.embedded.kafka import EmbeddedKafka, EmbeddedKafkaFailed
from shared.contracts.topics import TopicSpecification
from shared.messaging.admin import cluster_id, ensure_topics
from shared.messaging.lookup import fetch_record
from shared.messaging.producer import RecordProducer
from shared.settings.kafka import KafkaSettings
from tests.fixtures.kafka_harness import until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


async def _post(settings: KafkaSettings, value: bytes) -> None:
    async with RecordProducer(settings, client_id="test") as producer:
        await producer.send("kept", key=None, value=value)


async def test_records_and_address_survive_a_stop_a_crash_and_a_new_object(tmp_path: Path) -> None:
    said: list[str] = []
    kafka = EmbeddedKafka(tmp_path, progress=said.append)
    async with kafka:
        settings = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers)
        identity = await cluster_id(settings)
        await ensure_topics(settings, [TopicSpecification(name="kept", partitions=1, purpose="a test")])
        await _post(settings, b"before the stop")
    assert kafka.pid is None
    assert "starting Kafka" in said

    await kafka.start_async()
    assert kafka.bootstrap_servers == settings.bootstrap_servers
    await _post(settings, b"before the crash")
    kafka.kill()

    async with EmbeddedKafka(tmp_path) as another:
        settings = KafkaSettings(bootstrap_servers=another.bootstrap_servers)
        assert await cluster_id(settings) == identity
        for offset, value in enumerate((b"before the stop", b"before the crash")):
            record = await fetch_record(settings, "kept", 0, offset)
            assert record is not None
            assert record.value == value


async def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path, extra_properties={"num.io.threads": "no number"})
    with pytest.raises(EmbeddedKafkaFailed, match="no number"):
        await kafka.start_async(timeout_seconds=30)
    assert not kafka.is_running


async def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import signal, sys
        from pathlib import Path
        from services.cli.embedded.kafka import EmbeddedKafka
        print(EmbeddedKafka(Path(sys.argv[1])).start().pid, flush=True)
        signal.pause()
        """
    )
    parent = subprocess.Popen(  # noqa: ASYNC220 - its lifetime is what is tested
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )
    try:
        assert parent.stdout is not None
        broker = psutil.Process(int(await asyncio.to_thread(parent.stdout.readline)))
        assert "kafka.Kafka" in broker.cmdline()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close() if parent.stdout else None
    await until(
        lambda: not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE, seconds=20, what="the broker ends"
    )
