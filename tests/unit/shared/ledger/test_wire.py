"""What is written in Redis comes back unchanged, and stays small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.events import Chunk, FinishReason, Outcome, SealedOutcome, TokenLogprob
from shared.contracts.identifiers import ClaimToken, RequestId
from shared.contracts.requests import Coordinates, WireFormat
from shared.ledger import wire
from shared.ledger.records import Append, StreamMessage

_names = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_logprobs = st.builds(
    TokenLogprob,
    token_id=st.integers(0, 2**40),
    text=_text,
    logprob=st.floats(allow_nan=False, max_value=0),
    top=st.lists(st.tuples(st.integers(0, 2**40), _text, st.floats(allow_nan=False)), max_size=3).map(tuple),
)
_chunks = st.builds(
    Chunk,
    choice=st.integers(0, 128),
    position=st.integers(0, 2**31),
    token_ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=8).map(tuple),
    text=_text,
    logprobs=st.none() | st.lists(_logprobs, max_size=3).map(tuple),
    prompt_logprobs=st.none() | st.lists(_logprobs, max_size=3).map(tuple),
    finish_reason=st.none() | st.sampled_from(FinishReason),
)
_outcomes = st.builds(
    SealedOutcome,
    request_id=st.just(RequestId("a" * 32)),
    outcome=st.sampled_from(Outcome),
    wire_format=st.sampled_from(WireFormat),
    value=st.binary(max_size=100),
    headers=st.lists(st.tuples(_names, st.none() | st.binary(max_size=10)), max_size=4).map(tuple),
    reply_to=st.none() | _text,
    sealed_at_ms=st.integers(0, 2**53),
)


@given(st.lists(_chunks, max_size=4))
def test_chunks_come_back_unchanged(chunks: list[Chunk]) -> None:
    assert wire.decode_chunks([wire.encode_chunk(chunk) for chunk in chunks]) == chunks


@given(_outcomes)
def test_outcomes_come_back_unchanged_whatever_their_headers_are_called(outcome: SealedOutcome) -> None:
    assert wire.decode_sealed(wire.encode_sealed(outcome)) == outcome


@given(st.lists(st.tuples(_names, _names), max_size=3).map(tuple))
def test_origins_come_back_unchanged(trace_headers: tuple[tuple[str, str], ...]) -> None:
    coordinates = Coordinates(topic="requests", partition=7, offset=2**60, timestamp_ms=1_795_462_857_039)
    encoded = wire.encode_origin(coordinates, trace_headers)
    assert wire.decode_origin(encoded) == (coordinates, trace_headers)


@given(st.lists(_chunks, max_size=3), st.none() | _outcomes)
def test_a_wake_up_spliced_as_the_scripts_do_is_read_frame_by_frame(
    chunks: list[Chunk], outcome: SealedOutcome | None
) -> None:
    request_id = RequestId("a" * 32)
    terminal = b"\xc0" if outcome is None else wire.encode_sealed(outcome)
    parts = b"".join(wire.encode_chunk(chunk) for chunk in chunks)
    frame = b"\x93" + b"\xd9\x20" + request_id.encode() + bytes([0x90 + len(chunks)]) + parts + terminal
    expected = [StreamMessage(request_id=request_id, chunk=chunk) for chunk in chunks]
    if outcome is not None:
        expected.append(StreamMessage(request_id=request_id, terminal=outcome))
    assert wire.decode_message(b"\x92" + frame + frame) == expected + expected


def test_a_chunk_of_one_token_costs_few_bytes_beyond_its_text() -> None:
    chunk = Chunk(choice=0, position=1000, token_ids=(40_000,), text=" hello")
    assert len(wire.encode_chunk(chunk)) <= 18


def test_a_chunk_that_no_position_tells_from_its_repeat_is_refused() -> None:
    chunk = Chunk(choice=0, position=3, token_ids=(), text="tail")
    append = Append(request_id=RequestId("a"), token=ClaimToken("t"), chunks=(chunk,))
    with pytest.raises(ValueError, match="without tokens"):
        wire.encode_flush([append])
