"""What a record's way through the worker must look like, whatever happens to engine, ledger and Kafka on the way."""

import asyncio
import dataclasses
import json
from typing import Any

import pytest
import structlog.testing

from shared.contracts.errors import BrokerUnavailable, IdempotencyConflict, OutcomeTooLarge, PoisonMessage
from tests.fakes.ledger_store import Store
from tests.unit.services.worker.path_harness import POSTED_MS, num_logged, only_request, running_path, undisturbed


async def test_the_start_says_how_much_fits_and_on_how_many_threads() -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_path() as harness:
            ready = harness.engine.null.ready
    (line,) = [one for one in logs if one["event"] == "engine_ready"]
    assert line["kv_cache_tokens"] == ready.kv_cache_tokens > 0
    assert line["full_length_sequences"] == ready.num_full_sequences > 0
    assert (line["threads"], line["resident_bytes"]) == (ready.num_threads, ready.resident_bytes)


async def test_the_order_is_last_append_seal_publish_finish_done() -> None:
    async with running_path() as harness:
        delivery = harness.ask()
        await harness.until(lambda: delivery.is_done)
        assert harness.journal[0] == "append"
        assert harness.journal[-4:] == ["seal", "publish", "finish", "done"]
        assert set(harness.journal[:-4]) == {"append"}


async def test_the_reply_goes_out_between_the_result_and_finish() -> None:
    async with running_path() as harness:
        delivery = harness.ask(headers=[("ce_id", b"a"), ("penstock-reply-to", b"answers")])
        await harness.until(lambda: delivery.is_done)
        assert harness.journal[-5:] == ["seal", "publish", "reply", "finish", "done"]
        assert harness.replies.sent[0][1:] == harness.results.sent[0][1:]


async def test_a_reply_that_cannot_be_sent_does_not_hold_up_the_result() -> None:
    async with running_path() as harness:
        harness.replies.failures.append(BrokerUnavailable("no such topic"))
        delivery = harness.ask(headers=[("penstock-reply-to", b"answers")])
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["completed"]
        assert not harness.replies.sent


async def test_the_log_holds_exactly_the_tokens_and_the_text_of_the_result() -> None:
    async with running_path() as harness:
        delivery = harness.ask(max_tokens=23, return_token_ids=True, n=2)
        await harness.until(lambda: delivery.is_done)
        choices = harness.bodies()[0]["choices"]
        for choice in choices:
            chunks = [
                chunk
                for chunk in harness.store.entries[only_request(harness)].chunks
                if chunk.choice == choice["index"]
            ]
            assert "".join(chunk.text for chunk in chunks) == choice["text"]
            assert [t for chunk in chunks for t in chunk.token_ids] == choice["token_ids"]
            assert [chunk.finish_reason is not None for chunk in chunks[-2:]] == [False, True]
        assert choices[0]["text"] != choices[1]["text"]


async def test_publishing_is_tried_until_kafka_has_it_and_the_bytes_stay_the_same() -> None:
    async with running_path() as harness:
        harness.results.failures.extend([BrokerUnavailable("away")] * 3)
        delivery = harness.ask()
        await harness.until(lambda: "seal" in harness.journal)
        sealed = harness.store.entries[only_request(harness)].sealed
        assert not delivery.is_done
        await harness.until(lambda: delivery.is_done)
        assert sealed is not None
        assert [value for _, value, _ in harness.results.sent] == [sealed.value]


async def test_a_result_that_the_topic_refuses_as_too_large_becomes_a_dead_letter_and_finishes() -> None:
    async with running_path() as harness:
        harness.results.failures.append(OutcomeTooLarge("limit of the topic"))
        delivery = harness.ask()
        await harness.until(lambda: delivery.is_done)
        assert harness.journal[-4:] == ["seal", "dead letter", "finish", "done"]


@pytest.mark.parametrize("value", [b"\xff\x00", b"{", None, b'"text"', b""])
async def test_what_cannot_be_decoded_is_a_dead_letter_and_its_offset_is_done(value: bytes | None) -> None:
    async with running_path() as harness:
        delivery = harness.post(value)
        await harness.until(lambda: delivery.is_done)
        assert harness.journal == ["dead letter", "done"]
        record, error = harness.dead_letters[0]
        assert record is delivery.record
        assert isinstance(error, PoisonMessage)
        assert not harness.store.entries


async def test_broken_protobuf_is_a_dead_letter() -> None:
    async with running_path() as harness:
        delivery = harness.post(b"\x0a\xff", headers=[("content-type", b"application/protobuf")])
        await harness.until(lambda: delivery.is_done)
        assert harness.journal == ["dead letter", "done"]


async def test_too_many_dead_letters_raise_the_alarm_and_leave_the_record_alone() -> None:
    async with running_path(max_dead_letter_run=3) as harness:
        deliveries = [harness.post(b"garbage") for _ in range(3)]
        await harness.until(lambda: bool(harness.alarms))
        assert "3 records in a row" in str(harness.alarms[0])
        assert [delivery.is_done for delivery in deliveries] == [True, True, False]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"temperature": 9}, "invalid_request", "temperature"),
        ({"model": "other"}, "model_not_found", "model"),
        ({"prompt": "x" * 60, "max_tokens": 60}, "context_length_exceeded", "prompt"),
        ({"prompt": "x" * 9_000}, "context_length_exceeded", "prompt"),
        ({"prompt": [300]}, "invalid_request", "prompt"),
        ({"messages": [{"role": "user", "content": "x" * 200}], "prompt": None}, "context_length_exceeded", "messages"),
    ],
)
async def test_what_is_understood_and_invalid_gets_a_failed_result_that_names_the_field(
    body: dict[str, Any], code: str, param: str
) -> None:
    asked = {"prompt": "abc", "max_tokens": 4, **body}
    value = json.dumps({name: part for name, part in asked.items() if part is not None}).encode()
    async with running_path(engine={"max_model_tokens": 100}) as harness:
        delivery = harness.post(value)
        await harness.until(lambda: delivery.is_done)
        assert harness.journal == ["seal", "publish", "finish", "done"]
        assert harness.outcomes() == ["failed"]
        error = harness.bodies()[0]["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert not harness.engine.submitted


async def test_a_finished_request_that_comes_again_is_done_and_not_answered_twice() -> None:
    async with running_path() as harness:
        first = harness.ask()
        await harness.until(lambda: first.is_done)
        again = harness.ask()
        await harness.until(lambda: again.is_done)
        assert len(harness.results.sent) == 1


async def test_a_sealed_request_is_published_again_byte_for_byte_by_its_next_holder() -> None:
    store = Store(now_ms=lambda: POSTED_MS)
    async with running_path(store=store) as dying:
        dying.results.failures.extend([BrokerUnavailable("away")] * 1_000)
        dying.ask()
        await dying.until(lambda: "seal" in dying.journal)
    async with running_path(store=store, name="worker-1") as heir:
        delivery = heir.ask()
        await heir.until(lambda: delivery.is_done)
        assert heir.journal == ["publish", "finish", "done"]
        sealed = store.entries[only_request(heir)].sealed
        assert sealed is not None
        assert heir.results.sent[0][1] == sealed.value
        assert not heir.engine.submitted


async def test_another_body_under_a_known_id_is_a_dead_letter_and_the_first_one_is_answered() -> None:
    async with running_path() as harness:
        first = harness.ask(prompt="one", max_tokens=100)
        await harness.until(lambda: num_logged(harness) > 0)
        second = harness.ask(prompt="two")
        await harness.until(lambda: second.is_done)
        await harness.until(lambda: first.is_done)
        assert isinstance(harness.dead_letters[0][1], IdempotencyConflict)
        assert harness.dead_letters[0][0] is second.record
        assert len(harness.results.sent) == 1


async def test_a_copy_of_a_running_record_waits_and_does_not_disturb_it() -> None:
    async with running_path() as harness:
        original, copy = harness.ask(max_tokens=30), harness.ask(max_tokens=30)
        await harness.until(lambda: original.is_done and copy.is_done)
        assert len(harness.results.sent) == 1
        assert len(harness.engine.submitted) == 1
        assert harness.store.entries[only_request(harness)].lost == 0


async def test_a_held_request_is_claimed_again_every_half_second_until_it_is_finished() -> None:
    store = Store(now_ms=lambda: POSTED_MS)
    async with running_path(store=store) as holder, running_path(store=store, name="worker-1") as waiter:
        running = holder.ask(max_tokens=50)
        await holder.until(lambda: num_logged(holder) > 5)
        waiting = waiter.ask(max_tokens=50)
        await waiter.turn(seconds=0.4)
        assert not waiting.is_done
        await holder.until(lambda: running.is_done)
        await waiter.until(lambda: waiting.is_done)
        assert not waiter.results.sent
        assert len(holder.results.sent) == 1


async def test_a_stop_string_cuts_the_text_and_stops_the_choice_in_the_engine() -> None:
    whole = (await undisturbed(max_tokens=60))["choices"][0]["text"]
    stop = whole[20:22]
    async with running_path() as harness:
        delivery = harness.ask(max_tokens=60, stop=[stop])
        await harness.until(lambda: delivery.is_done)
        choice = harness.bodies()[0]["choices"][0]
        assert choice["text"] == whole[: whole.index(stop)]
        assert choice["finish_reason"] == "stop"
        assert (only_request(harness), 0) in harness.engine.cancelled
        assert harness.bodies()[0]["usage"]["completion_tokens"] == whole.index(stop) + 2


async def test_intake_pauses_above_the_high_mark_of_open_tokens_and_resumes_below_the_low_one() -> None:
    async with running_path(max_open_tokens=300) as harness:
        first = [harness.ask(max_tokens=100, headers=[("ce_id", b"%d" % n)]) for n in range(3)]
        await harness.until(lambda: harness.path.emitter.num_running == 3, is_stepping=False)
        harness.path.balance()
        assert harness.valve.is_paused
        await harness.until(lambda: all(delivery.is_done for delivery in first))
        assert not harness.valve.is_paused


async def test_quarantine_closes_the_valve_until_it_is_lifted() -> None:
    async with running_path() as harness:
        harness.path.quarantine(True)
        assert harness.valve.is_paused
        harness.path.quarantine(False)
        assert not harness.valve.is_paused


async def test_a_stopped_intake_claims_nothing_more_and_leaves_the_offset_undone() -> None:
    async with running_path() as harness:
        harness.path.intake.stop()
        delivery = harness.ask()
        for _ in range(5):
            await harness.turn(seconds=0.5)
        assert not delivery.is_done
        assert not harness.store.entries


async def test_our_own_bug_ends_one_request_and_not_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_path() as harness:

        async def broken(*_: object) -> int:
            raise ZeroDivisionError

        monkeypatch.setattr(harness.path.intake._prompts, "read", broken)
        bad = harness.ask()
        await harness.until(lambda: bad.is_done)
        assert harness.bodies()[0]["error"]["code"] == "internal_error"
        monkeypatch.undo()
        good = harness.ask(headers=[("ce_id", b"b")])
        await harness.until(lambda: good.is_done)
        assert harness.outcomes() == ["failed", "completed"]


async def test_the_first_token_goes_out_at_once_and_the_rest_in_flushes() -> None:
    async with running_path(flush_interval_seconds=10.0) as harness:
        harness.ask(max_tokens=1_000)
        await harness.until(lambda: harness.path.emitter.num_running == 1)
        for _ in range(50):
            harness.path.step_finished(harness.engine.step())
            await asyncio.sleep(0)
        assert harness.journal.count("append") == 1
        assert 1 <= num_logged(harness) < 50


async def test_a_first_token_takes_no_other_requests_tokens_along() -> None:
    """Else the streams of a busy worker, where something begins or ends all the time, go out token by token."""
    async with running_path(flush_interval_seconds=10.0) as harness:
        harness.ask(max_tokens=1_000, headers=[("ce_id", b"old")])
        await harness.until(lambda: num_logged(harness) >= 1)
        (old,) = harness.store.entries.values()
        await harness.clock.advance(6.0)  # more than half an interval, less than a whole one
        harness.ask(max_tokens=1_000, headers=[("ce_id", b"new")])
        await harness.until(lambda: len(harness.store.entries) == 2)
        new = list(harness.store.entries.values())[1]
        await harness.until(lambda: bool(new.chunks))
        assert len(old.chunks) == 1
        await harness.clock.advance(5.0)
        harness.ask(max_tokens=1, headers=[("ce_id", b"third")])
        await harness.until(lambda: len(old.chunks) == 2)
        assert len(old.chunks[1].token_ids) > 1


async def test_many_requests_of_a_step_share_one_append() -> None:
    async with running_path() as harness:
        deliveries = [harness.ask(headers=[("ce_id", b"%d" % number)]) for number in range(40)]
        await harness.until(lambda: harness.path.emitter.num_running == 40, is_stepping=False)
        await harness.until(lambda: all(delivery.is_done for delivery in deliveries))
        assert harness.journal.count("append") <= 5
        assert harness.journal.count("seal") == 40


async def test_why_the_engine_took_a_slower_attention_is_logged() -> None:
    async with running_path() as harness:
        ready = harness.engine.null.ready
        with structlog.testing.capture_logs() as quiet:
            harness.path.engine_ready(ready)
        with structlog.testing.capture_logs() as told:
            harness.path.engine_ready(dataclasses.replace(ready, attention_note="heads of 512 are larger than 256"))
    assert [entry["event"] for entry in quiet] == ["engine_ready"]
    assert [entry["reason"] for entry in told if entry["event"] == "slower_attention"] == [
        "heads of 512 are larger than 256"
    ]


async def test_the_size_of_the_cache_is_logged_when_the_engine_starts() -> None:
    async with running_path() as harness:
        ready = dataclasses.replace(
            harness.engine.null.ready, kv_cache_tokens=1600, num_full_sequences=4, max_model_tokens=330
        )
        with structlog.testing.capture_logs() as logs:
            harness.path.engine_ready(ready)
    (entry,) = (entry for entry in logs if entry["event"] == "engine_ready")
    assert (entry["kv_cache_tokens"], entry["full_length_sequences"], entry["tokens_of_a_sequence"]) == (1600, 4, 330)


async def test_a_request_of_a_newer_major_version_fails_by_name_and_its_bytes_are_kept() -> None:
    async with running_path() as harness:
        delivery = harness.ask(headers=(("ce_id", b"a"), ("penstock-schema-version", b"2.0")))
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["failed"]
        assert harness.bodies()[0]["error"]["code"] == "unsupported_schema_version"
        assert "2.0" in harness.bodies()[0]["error"]["message"]
        ((record, error),) = harness.dead_letters
        assert record is delivery.record
        assert error.code == "unsupported_schema_version"


async def test_a_request_of_a_newer_minor_version_is_answered() -> None:
    async with running_path() as harness:
        delivery = harness.ask(headers=(("ce_id", b"a"), ("penstock-schema-version", b"1.9"), ("penstock-mood", b"x")))
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["completed"]
