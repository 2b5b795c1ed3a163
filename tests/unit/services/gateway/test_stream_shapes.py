"""What is remembered of a stream's request: its form, never its text."""

import json
from dataclasses import replace
from typing import Any

import pytest

from services.gateway import stream_shapes
from services.gateway.stream_shapes import StreamShapes, shape_of
from shared.contracts.errors import RequestNotFound
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Coordinates, InferenceRequest, Lane
from shared.ledger.records import RequestRecord, RequestState
from shared.openai.requests import parse_request

REQUEST = parse_request(
    json.dumps({"model": "tiny", "prompt": ["a secret", "another"], "n": 2, "stream": True}).encode(), kind=None
)
WHERE = Coordinates(topic="t", partition=1, offset=2, timestamp_ms=3)
RECORD = RequestRecord(
    request_id=RequestId("c" * 32),
    state=RequestState.RUNNING,
    pool="gpu",
    lane=Lane.INTERACTIVE,
    tenant="t",
    deadline_ms=None,
    fingerprint="f",
    seed=1,
    holder=None,
    coordinates=WHERE,
    attempts=1,
    lost_claims=0,
    cancel_reason=None,
    registered_at_ms=1_700_000_000_999,
    finished_at_ms=None,
    sealed=None,
)


class Lookup:
    def __init__(self, answer: InferenceRequest | None) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def __call__(self, pool: str, where: Coordinates) -> InferenceRequest | None:
        self.asked.append((pool, where))
        return self.answer


def test_a_shape_has_the_choices_and_not_the_text() -> None:
    shape = shape_of(REQUEST, pool="gpu", created_seconds=1)
    assert shape.request.num_choices == 4
    assert "secret" not in repr(shape)


async def test_a_remembered_shape_needs_no_lookup() -> None:
    lookup = Lookup(None)
    shapes = StreamShapes(lookup)
    shapes.remember(RECORD.request_id, shape_of(REQUEST, pool="gpu", created_seconds=7))
    assert (await shapes.find(RECORD)).created_seconds == 7
    assert lookup.asked == []


async def test_another_shape_is_looked_up_once_by_its_coordinates() -> None:
    lookup = Lookup(REQUEST)
    shapes = StreamShapes(lookup)
    first, second = await shapes.find(RECORD), await shapes.find(RECORD)
    assert first == second
    assert (first.pool, first.created_seconds) == ("gpu", 1_700_000_000)
    assert lookup.asked == [("gpu", WHERE)]


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, coordinates=None)])
async def test_a_record_that_is_gone_or_not_claimed_yet_is_not_found(record: RequestRecord) -> None:
    with pytest.raises(RequestNotFound):
        await StreamShapes(Lookup(None)).find(record)


async def test_memory_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_shapes, "_MOST_REMEMBERED", 2)
    lookup = Lookup(None)
    shapes = StreamShapes(lookup)
    for number in range(3):
        name = RequestId(f"{number:032x}")
        shapes.remember(name, shape_of(REQUEST, pool="gpu", created_seconds=number))
    with pytest.raises(RequestNotFound):
        await shapes.find(replace(RECORD, request_id=RequestId(f"{0:032x}")))
    assert (await shapes.find(replace(RECORD, request_id=RequestId(f"{2:032x}")))).created_seconds == 2
