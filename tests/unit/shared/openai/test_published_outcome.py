"""A record of the results topic is read back as what was sealed; anything else is passed over."""

from dataclasses import replace

import pytest

from shared.contracts.errors import DeadlineExceeded
from shared.contracts.events import InferenceOutcome, Outcome
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import RequestKind
from shared.contracts.topics import TopicNames
from shared.messaging.records import SourceRecord
from shared.openai.envelope import read_envelope
from shared.openai.outcomes import outcome_error
from shared.openai.published_outcome import read_published_outcome
from shared.openai.sealing import seal_outcome

REQUEST = SourceRecord(
    topic="inference.requests.default.bulk",
    partition=4,
    offset=2**33,
    timestamp_ms=1_700_000_000_123,
    key=b"\xff",
    value=b"{}",
    headers=(("ce_id", b"\xff1"), ("penstock-tenant", b"acme"), ("penstock-reply-to", b"answers"), ("own", None)),
)


def result(**changes: object) -> SourceRecord:
    envelope = read_envelope(REQUEST, names=TopicNames(), pool="default", cluster="c")
    outcome = InferenceOutcome(
        request_id=envelope.request_id,
        outcome=Outcome.EXPIRED,
        kind=RequestKind.CHAT,
        model="m",
        created_seconds=1,
        error=outcome_error(DeadlineExceeded("late")),
    )
    sealed = seal_outcome(envelope, outcome, sealed_at_ms=1_700_000_001_999, max_bytes=100_000)
    record = SourceRecord(
        topic="inference.results",
        partition=0,
        offset=1,
        timestamp_ms=5,
        key=sealed.request_id.encode(),
        value=sealed.value,
        headers=sealed.headers,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def test_it_is_the_sealed_outcome_but_for_the_reply_that_was_sent() -> None:
    envelope = read_envelope(REQUEST, names=TopicNames(), pool="default", cluster="c")
    record = result()
    published = read_published_outcome(record)
    assert published is not None
    assert (published.tenant, published.pool, published.coordinates) == ("acme", "default", envelope.coordinates)
    sealed = published.outcome
    assert (sealed.request_id, sealed.outcome, sealed.value) == (envelope.request_id, Outcome.EXPIRED, record.value)
    assert (sealed.headers, sealed.reply_to, sealed.sealed_at_ms) == (record.headers, None, 1_700_000_001_999)


@pytest.mark.parametrize(
    "changes",
    [
        {"value": None},
        {"headers": ()},
        {"headers": (("ce_id", b"\xff"), ("ce_type", b"penstock.inference.completed.v1"))},
        {"headers": (("ce_id", b"0" * 32), ("ce_type", b"penstock.inference.requested.v1"))},
    ],
)
def test_what_is_no_result_is_none(changes: dict[str, object]) -> None:
    assert read_published_outcome(result(**changes)) is None


def test_a_broken_time_is_the_records_own() -> None:
    headers = (("ce_id", b"0" * 32), ("ce_type", b"penstock.inference.completed.v1"), ("ce_time", b"soon"))
    published = read_published_outcome(result(headers=headers))
    assert published is not None
    assert published.outcome.request_id == RequestId("0" * 32)
    assert published.outcome.sealed_at_ms == 5
