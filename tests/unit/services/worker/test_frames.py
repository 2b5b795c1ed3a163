"""Frames survive any cut of the stream and refuse what is not theirs."""

import itertools
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.engine.events import (
    Cancel,
    ChoiceStart,
    EngineDied,
    EngineReady,
    LogprobEntry,
    RequestRejected,
    RequestTimings,
    Shutdown,
    StepResult,
    StepStatistics,
    Submit,
    TokensSampled,
)
from services.worker.frames import BrokenFrame, FrameChannel, FrameReader, Message, PeerClosed, encode_frame
from shared.contracts.sampling import SamplingParameters

STATISTICS = StepStatistics(
    step=1,
    duration_seconds=0.5,
    num_running=1,
    num_waiting=2,
    num_prefill_tokens=3,
    num_decode_tokens=4,
    blocks_total=5,
    blocks_used=1,
    blocks_cached=2,
    num_preemptions_total=0,
    outstanding_tokens=9,
)
MESSAGES: list[Message] = [
    Submit(
        request_id="r",
        choices=[ChoiceStart(index=1, prompt_token_ids=[1, 2], output_token_ids=[3], seed=2**63 - 1)],
        sampling=SamplingParameters(stop=("a", "\u00e9"), max_tokens=5),
        eos_token_ids=[0],
        order=(0, -1, 2, 3),
        cache_salt="tenant",
    ),
    Cancel(request_id="r", choice=None),
    Cancel(request_id="r", choice=3),
    Shutdown(),
    StepResult(
        tokens=[
            TokensSampled(
                request_id="r",
                choice=0,
                position=7,
                token_ids=[1, 2],
                logprobs=[LogprobEntry(logprob=-0.5, top_token_ids=[1], top_logprobs=[-0.5])],
                finish_reason="stop",
            )
        ],
        timings=[
            RequestTimings(
                request_id="r",
                submitted_ns=1,
                scheduled_ns=2,
                first_token_ns=3,
                last_token_ns=4,
                cached_prompt_tokens=0,
                num_preemptions=1,
            )
        ],
        rejected=[RequestRejected(request_id="q", code="invalid_request", message="no", param="n")],
        statistics=STATISTICS,
    ),
    EngineReady(
        model_name="m",
        fingerprint="f",
        vocabulary_size=1,
        max_model_tokens=2,
        block_size_tokens=3,
        num_kv_blocks=4,
        kv_cache_tokens=12,
        num_full_sequences=4,
        max_running_sequences=5,
        device="cpu",
        dtype="float32",
        attention_backend="reference",
        load_seconds=1.5,
    ),
    EngineDied(message="out of memory"),
]
STREAM = b"".join(map(encode_frame, MESSAGES))


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_messages_arrive_whole_and_in_order_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    reader = FrameReader()
    borders = [0, *sorted(cuts), len(STREAM)]
    received = [message for start, end in itertools.pairwise(borders) for message in reader.feed(STREAM[start:end])]
    assert received == MESSAGES


def test_an_incomplete_frame_waits_for_its_rest() -> None:
    reader = FrameReader()
    frame = encode_frame(MESSAGES[0])
    assert reader.feed(frame[:-1]) == []
    assert reader.feed(frame[-1:]) == [MESSAGES[0]]


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00\x00\x00\x01\x63\x80",  # no class has this tag
        b"\xff\xff\xff\xff\x00",  # longer than any frame
        b"\x00\x00\x00\x01\x00\xc1",  # not msgpack
        b"\x00\x00\x00\x01\x01\x80",  # a Cancel without its fields
    ],
)
def test_what_is_no_frame_of_ours_breaks_the_stream(stream: bytes) -> None:
    with pytest.raises(BrokenFrame):
        FrameReader().feed(stream)


def test_a_channel_reads_what_is_there_and_does_not_wait_unless_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = FrameChannel(theirs)
        assert channel.receive(is_blocking=False) == []
        ours.sendall(encode_frame(MESSAGES[1]))
        assert channel.receive(is_blocking=True) == [MESSAGES[1]]
        channel.send(MESSAGES[-1])
        assert FrameReader().feed(ours.recv(1_000)) == [MESSAGES[-1]]


def test_a_channel_says_when_the_other_side_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        channel = FrameChannel(theirs)
        with pytest.raises(PeerClosed):
            channel.receive(is_blocking=True)
        with pytest.raises(PeerClosed):
            channel.send(Shutdown())
