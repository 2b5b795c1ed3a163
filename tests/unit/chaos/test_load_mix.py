"""What is asked follows from the seed alone, and its answers are known before it is asked."""

import ctypes
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.asks import Ask, Early, Way
from tests.chaos.clock_shim import build_clock_shim
from tests.chaos.expected_text import chat_prompt, expected_text
from tests.chaos.http_load import lines_of
from tests.chaos.load_mix import COMPLETIONS, model_bodies, next_null_ask, next_queued_ask, next_rehearsed_ask, null_ask
from tests.chaos.openai_shapes import result_answers, take_chunk


def some_asks(seed: int, count: int = 300) -> list[Ask]:
    rng = random.Random(seed)
    return [next_null_ask(rng, number) for number in range(count)]


def test_a_seed_asks_the_same_again() -> None:
    assert [ask.body for ask in some_asks(3)] == [ask.body for ask in some_asks(3)]
    assert [ask.body for ask in some_asks(3)] != [ask.body for ask in some_asks(4)]


def test_everything_that_can_be_asked_is_asked() -> None:
    asks = some_asks(1)
    assert {ask.way for ask in asks} == set(Way)
    assert {ask.early for ask in asks} == {None, *Early}
    assert {ask.lane for ask in asks} == {"interactive", "bulk"}
    assert {len(ask.wanted.answers) for ask in asks} == {1, 2, 3}
    assert any(answer.finish_reason == "stop" for ask in asks for answer in ask.wanted.answers)
    assert any(ask.endpoint == COMPLETIONS for ask in asks)


def test_the_queue_of_a_planted_run_is_of_few_keys() -> None:
    rng = random.Random(1)
    asks = [next_queued_ask(rng, number) for number in range(90)]
    assert all(ask.way is Way.KAFKA for ask in asks)
    assert len({(ask.lane, ask.ordered_key) for ask in asks}) == 6


def test_only_a_stream_ends_early() -> None:
    assert all(ask.way is Way.STREAM for ask in some_asks(2) if ask.early is not None)


def test_a_stop_string_is_cut_off_and_its_tokens_count() -> None:
    whole = expected_text(chat_prompt("hi"), seed=9, num_tokens=80)
    ask = null_ask("a", Way.KAFKA, "hi", seed=9, num_tokens=80, stop_at=40)
    at = whole.find(whole[40:48])
    (answer,) = ask.wanted.answers
    assert (answer.text, answer.finish_reason, ask.wanted.completion_tokens) == (whole[:at], "stop", at + 8)
    assert ask.body["stop"] == whole[40:48]


def test_a_rehearsed_ask_wants_what_the_rehearsal_got() -> None:
    known = null_ask("known", Way.STREAM, "hi", seed=9, num_tokens=80)
    ask = next_rehearsed_ask(random.Random(1), 5, [known])
    assert (ask.name, ask.body, ask.wanted) == ("ask-5", known.body, known.wanted)
    assert ask.said is not known.said


def test_the_bodies_for_a_model_cover_what_must_survive_a_cut() -> None:
    bodies = [body for _, body in model_bodies("m", 1)]
    for name in ("n", "logprobs", "response_format", "tools"):
        assert any(name in body for body in bodies), name


def test_chunks_add_up_to_the_result_object() -> None:
    ask = null_ask("a", Way.STREAM, "hi", seed=9, num_tokens=80)
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ":1}"}}
    logprobs = {"content": [{"token": "x", "logprob": -1.0}]}
    for delta in ({"content": "he"}, {"content": "y"}, {"tool_calls": [call]}, {"tool_calls": [rest]}):
        choice = {"index": 0, "delta": delta, "logprobs": logprobs if "content" in delta else None}
        take_chunk(ask, {"choices": [choice | {"finish_reason": None}], "usage": None})
    take_chunk(ask, {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    take_chunk(ask, {"choices": [], "usage": {"completion_tokens": 2}})
    message = {"content": "hey", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}]}
    whole = {
        "index": 0,
        "message": message,
        "finish_reason": "tool_calls",
        "logprobs": {"content": [{"token": "x"}, {"token": "x"}]},
    }
    answers, tokens = result_answers({"choices": [whole], "usage": {"completion_tokens": 2}}, 1)
    assert (ask.said, ask.usage) == (answers, tokens)
    assert len(ask.arrivals) == 4


async def test_a_line_ends_at_a_line_feed_and_nowhere_else() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in ("data: a\u2028b".encode(), b"c\n", b"\ndata: \xe2\x82", b"\xac\n"):
            yield part

    assert [line async for line in lines_of(parts())] == ["data: a\u2028bc", "", "data: €"]


def test_the_shim_shifts_the_wall_clock_of_a_process_and_not_its_monotonic_one(tmp_path: Path) -> None:
    shim = build_clock_shim(tmp_path)
    if shim is None:
        pytest.skip("no C compiler here")
    ctypes.CDLL(str(shim))
    clocks = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time(), time.monotonic())"],
        env={**os.environ, "LD_PRELOAD": str(shim), "CHAOS_CLOCK_OFFSET_SECONDS": "-3600"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert -3_700 < float(clocks[0]) - time.time() < -3_590
    assert abs(float(clocks[1]) - time.monotonic()) < 60


def test_some_records_want_their_keys_order_and_say_how_long_they_take_at_least() -> None:
    ordered = [ask for ask in some_asks(1, 600) if ask.ordered_key is not None]
    assert len(ordered) > 20
    for ask in ordered:
        assert ask.way is Way.KAFKA
        assert (ask.ordered_key or "").startswith(ask.lane), "the lanes are topics of their own"
        assert ask.least_seconds == pytest.approx(0.04 * ask.wanted.completion_tokens)
