"""Load through Kafka as a stranger makes it: records posted with `confluent-kafka`, results counted as they come."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass

from services.cli.foreign_clients.kafka_client import Poster, Receipt, ResultReader

_WARM_UP_TRIPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaTally:
    """`seconds` from the first post to the last result."""

    answered: int
    failed: int
    seconds: float


def record_body(number: int, max_tokens: int) -> bytes:
    return json.dumps(
        {
            "messages": [{"role": "user", "content": f"record {number}"}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
        }
    ).encode()


def burst(
    bootstrap_servers: str, *, requests_topic: str, results_topic: str, records: int, max_tokens: int
) -> KafkaTally:
    """Post `records` at once, wait until each is answered, or 120 s."""
    reader = ResultReader(bootstrap_servers, results_topic)
    receipts: list[Receipt] = []
    begin = time.perf_counter()
    poster = threading.Thread(
        target=lambda: receipts.extend(
            Poster(bootstrap_servers).post(
                requests_topic, [record_body(number, max_tokens) for number in range(records)]
            )
        )
    )
    poster.start()
    seen: set[Receipt] = set()
    failed = 0
    last_result_at = begin
    try:
        for result in reader.results(timeout_seconds=120.0):
            seen.add(result.receipt)
            failed += b'"error"' in result.value[:200]
            last_result_at = time.perf_counter()
            if len(seen) >= records:
                break
    finally:
        reader.close()
        poster.join()
    return KafkaTally(answered=len(seen.intersection(receipts)), failed=failed, seconds=last_result_at - begin)


def round_trips(
    bootstrap_servers: str, *, requests_topic: str, results_topic: str, count: int, per_second: float
) -> list[float]:
    """Seconds from post to result of single records at a low rate, after a few that only warm up."""
    reader = ResultReader(bootstrap_servers, results_topic)
    poster = Poster(bootstrap_servers)
    times: list[float] = []
    try:
        for number in range(_WARM_UP_TRIPS + count):
            begin = time.perf_counter()
            receipt = poster.post(requests_topic, [record_body(number, 1)])[0]
            is_answered = any(result.receipt == receipt for result in reader.results(timeout_seconds=10.0))
            if is_answered and number >= _WARM_UP_TRIPS:
                times.append(time.perf_counter() - begin)
            time.sleep(max(0.0, 1 / per_second - (time.perf_counter() - begin)))
    finally:
        reader.close()
    return times
