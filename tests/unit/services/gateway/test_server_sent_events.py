"""Bytes of events and the ids that bring clients back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.server_sent_events import event, event_with_id, format_position, parse_event_id
from services.gateway.stream_order import StreamPosition
from shared.contracts.errors import InvalidRequest

POSITIONS = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**11), st.integers(0, 2**32 - 1), st.booleans()),
    min_size=1,
    max_size=5,
)


def test_an_event_is_data_and_a_blank_line() -> None:
    assert event(b"{}") == b"data: {}\n\n"
    assert event_with_id(b"{}", b"1") == b"id: 1\ndata: {}\n\n"


@given(POSITIONS)
def test_an_id_brings_back_its_positions(parts: list[tuple[int, int, int, bool]]) -> None:
    positions = [
        StreamPosition(choice=choice, num_tokens=tokens, num_characters=characters, digest=digest, is_finished=finished)
        for choice, (tokens, characters, digest, finished) in enumerate(parts)
    ]
    assert parse_event_id(b",".join(map(format_position, positions)).decode()) == positions


@pytest.mark.parametrize(
    "text", ["x", "1.2", "1.2.3", "1.2.0000000g", "-1.2.00000000", "1.2.00000000,", "١.2.00000000", "1" * 9_999]
)
def test_another_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_event_id(text)
    assert refused.value.param == "last-event-id"


def test_an_endless_id_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        parse_event_id("1.2.00000000," * 5_000)
