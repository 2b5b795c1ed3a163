"""Requests that wait, on real Kafka and real Redis: for a failure to pass, and for the one before them of their key."""

import itertools
import json
import time
from datetime import datetime

import pytest

from tests.integration.services.worker.test_worker import Installation, installation, running

__all__ = ["installation"]
pytestmark = [pytest.mark.kafka, pytest.mark.redis]

BODY = {"prompt": "the same", "max_tokens": 30, "seed": 11}


def text_of(installation: Installation, name: str) -> str:
    text: str = json.loads(installation.result_of(name)["value"])["choices"][0]["text"]
    return text


async def test_what_fails_in_the_middle_comes_back_by_the_delay_topic_and_goes_on(
    installation: Installation,
) -> None:
    # Each second submission fails after ten steps: the first of these requests does not, the second one does, once.
    async with running(installation, null_step_ms=5.0, null_fail_every=2):
        await installation.post(json.dumps(BODY).encode(), [("ce_id", b"undisturbed")])
        await installation.until(lambda: len(installation.results) == 1)
        asked_at = time.monotonic()
        await installation.post(json.dumps(BODY).encode(), [("ce_id", b"failed once")])
        await installation.post(json.dumps({**BODY, "prompt": "fresh"}).encode(), [("ce_id", b"fresh")])
        await installation.until(lambda: len(installation.results) == 3)
        assert time.monotonic() - asked_at >= 0.5, "at least half of the first topic's delay"
    assert text_of(installation, "failed once") == text_of(installation, "undisturbed")
    assert not installation.dead_letters


async def test_records_of_a_key_are_worked_on_one_after_another_across_a_worker_that_leaves(
    installation: Installation,
) -> None:
    names = [f"step-{number}" for number in range(4)]
    body = json.dumps({"prompt": "in order", "max_tokens": 40}).encode()
    async with running(installation, null_step_ms=20.0, drain_seconds=0.0) as first:
        for name in names:
            await installation.producer.send(
                installation.requests,
                key=b"order-7",
                value=body,
                headers=[("ce_id", name.encode()), ("penstock-ordered", b"true")],
            )
        await installation.until(lambda: len(installation.results) == 1)
        assert first._source.in_flight_count >= 1, "the rest waits its turn"
    async with running(installation, null_step_ms=20.0):
        await installation.until(lambda: len({entry["headers"]["ce_id"] for entry in installation.results}) == 4)
    sealed = [
        datetime.fromisoformat(installation.result_of(name)["headers"]["ce_time"].decode()).timestamp()
        for name in names
    ]
    for before, after in itertools.pairwise(sealed):
        assert after - before >= 0.7 * 40 * 0.02, "none began before the one before it had ended"
