"""Ids are derived, collide for nobody, and survive redelivery."""

import re

from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.identifiers import (
    RequestId,
    WorkerId,
    body_fingerprint,
    new_claim_token,
    new_incarnation,
    request_id_from_coordinates,
    request_id_from_event,
    seed_from_request_id,
    worker_of,
)

TEXT = st.text(max_size=12)


def test_an_event_keeps_its_id_whatever_else_changes() -> None:
    ids = {request_id_from_event(tenant="t", source="/s", event_id="1") for _ in range(2)}
    assert len(ids) == 1
    assert re.fullmatch(r"[0-9a-f]{32}", ids.pop())


@given(first=st.tuples(TEXT, TEXT, TEXT), second=st.tuples(TEXT, TEXT, TEXT))
def test_two_events_share_an_id_only_when_tenant_source_and_id_are_equal(
    first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    ids = [
        request_id_from_event(tenant=tenant, source=source, event_id=event) for tenant, source, event in (first, second)
    ]
    assert (ids[0] == ids[1]) == (first == second)


def test_parts_cannot_be_shifted_into_each_other() -> None:
    assert request_id_from_event(tenant="ab", source="c", event_id="") != request_id_from_event(
        tenant="a", source="bc", event_id=""
    )


def test_each_coordinate_makes_another_id() -> None:
    place = {"cluster": "c", "topic": "t", "partition": 0, "offset": 1, "timestamp_ms": 2}
    changes = [{"cluster": "d"}, {"topic": "u"}, {"partition": 1}, {"offset": 2}, {"timestamp_ms": 3}, {}]
    ids = {request_id_from_coordinates(**{**place, **change}) for change in changes}  # type: ignore[arg-type]
    assert len(ids) == len(changes)


def test_an_event_and_a_record_never_share_an_id() -> None:
    event = request_id_from_event(tenant="c", source="t", event_id="0")
    record = request_id_from_coordinates(cluster="c", topic="t", partition=0, offset=0, timestamp_ms=0)
    assert event != record


def test_an_incarnation_names_its_worker_and_is_never_reused() -> None:
    worker = WorkerId("default-0.eu.example")
    lives = {new_incarnation(worker) for _ in range(50)}
    assert len(lives) == 50
    assert {worker_of(life) for life in lives} == {worker}


def test_claim_tokens_do_not_repeat() -> None:
    assert len({new_claim_token() for _ in range(1000)}) == 1000


@given(st.text(alphabet="0123456789abcdef", min_size=32, max_size=32))
def test_a_derived_seed_is_stable_and_fits_a_signed_64_bit_number(text: str) -> None:
    seed = seed_from_request_id(RequestId(text))
    assert seed == seed_from_request_id(RequestId(text))
    assert 0 <= seed < 2**63


def test_fingerprints_tell_bodies_apart() -> None:
    assert body_fingerprint(b"{}") == body_fingerprint(b"{}")
    assert body_fingerprint(b"{}") != body_fingerprint(b"{ }")
