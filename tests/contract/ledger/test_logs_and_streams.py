"""The log has no gap and no repeat, and who listens sees it grow."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.contracts.events import Chunk, FinishReason, Outcome, TokenLogprob
from shared.ledger.records import (
    Append,
    AppendStatus,
    Ended,
    RequestState,
    Run,
    StreamMessage,
)
from tests.contract.ledger.ledger_bench import ALICE, BOB, Bench, chunk, now_ms


async def _collect(messages: AsyncIterator[list[StreamMessage]], count: int) -> list[StreamMessage]:
    collected: list[StreamMessage] = []
    async with asyncio.timeout(10):
        while len(collected) < count:
            collected += await anext(messages)
    return collected


async def _log(bench: Bench) -> list[Chunk]:
    snapshot = await bench.ledger.attach(bench.request_id, channel="reader")
    assert snapshot is not None
    return snapshot.chunks


async def test_appends_in_order_of_position_become_the_log(bench: Bench) -> None:
    run = await bench.run()
    first = await bench.append(run.token, chunk(0, 1, 2), chunk(2, 3), chunk(0, 9, choice=1))
    assert (first.status, first.next_positions) == (AppendStatus.OK, {0: 3, 1: 1})
    second = await bench.append(run.token, chunk(3, 4))
    assert (second.status, second.next_positions) == (AppendStatus.OK, {0: 4})
    assert await _log(bench) == [chunk(0, 1, 2), chunk(2, 3), chunk(0, 9, choice=1), chunk(3, 4)]


async def test_a_chunk_comes_back_exactly_as_it_was_written(bench: Bench) -> None:
    logprobs = (
        TokenLogprob(token_id=5, text="é", logprob=-0.25, top=((5, "é", -0.25), (6, "\n", -2.5))),
        TokenLogprob(token_id=6, text="", logprob=-9.0),
    )
    written = Chunk(
        choice=2, position=0, token_ids=(5, 2**31), text="é\x00🎏\ufffd", logprobs=logprobs,
        finish_reason=FinishReason.LENGTH,
    )  # fmt: skip
    run = await bench.run()
    assert (await bench.append(run.token, written)).status is AppendStatus.OK
    assert await _log(bench) == [written]


async def test_a_repeated_append_is_ok_and_changes_nothing(bench: Bench) -> None:
    run = await bench.run()
    for _ in range(3):
        answer = await bench.append(run.token, chunk(0, 1), chunk(1, 2, 3))
        assert (answer.status, answer.next_positions) == (AppendStatus.OK, {0: 3})
    assert (await bench.append(run.token, chunk(0, 1, 2, 3))).status is AppendStatus.OK
    assert await _log(bench) == [chunk(0, 1), chunk(1, 2, 3)]


async def test_an_append_after_a_gap_is_behind_and_says_where_to_go_on(bench: Bench) -> None:
    run = await bench.run()
    await bench.append(run.token, chunk(0, 1, 2))
    answer = await bench.append(run.token, chunk(5, 6), chunk(0, 7, choice=1))
    assert (answer.status, answer.next_positions) == (AppendStatus.BEHIND, {0: 2, 1: 1})
    assert await _log(bench) == [chunk(0, 1, 2), chunk(0, 7, choice=1)]


async def test_a_partial_overlap_writes_nothing_and_says_where_to_go_on(bench: Bench) -> None:
    run = await bench.run()
    await bench.append(run.token, chunk(0, 1, 2, 3))
    answer = await bench.append(run.token, chunk(1, 2, 3, 4, 5))
    assert (answer.status, answer.next_positions) == (AppendStatus.BEHIND, {0: 3})
    assert (await bench.append(run.token, chunk(3, 4, 5))).status is AppendStatus.OK
    assert await _log(bench) == [chunk(0, 1, 2, 3), chunk(3, 4, 5)]


async def test_a_choice_s_last_text_without_tokens_is_written_once(bench: Bench) -> None:
    run = await bench.run()
    last = chunk(2, text="tail", finish=FinishReason.STOP)
    await bench.append(run.token, chunk(0, 1, 2))
    for _ in range(2):
        assert (await bench.append(run.token, last)).status is AppendStatus.OK
    assert await _log(bench) == [chunk(0, 1, 2), last]


async def test_a_choice_that_ends_without_a_token_is_in_the_log(bench: Bench) -> None:
    run = await bench.run()
    last = chunk(0, choice=1, finish=FinishReason.STOP)
    assert (await bench.append(run.token, last)).status is AppendStatus.OK
    assert await _log(bench) == [last]


async def test_tokens_after_the_end_of_a_choice_are_refused_and_other_choices_go_on(bench: Bench) -> None:
    run = await bench.run()
    last = chunk(0, 1, finish=FinishReason.LENGTH)
    await bench.append(run.token, last)
    assert (await bench.append(run.token, chunk(1, 2))).status is AppendStatus.CLOSED
    assert (await bench.append(run.token, chunk(0, 3, choice=1))).status is AppendStatus.OK
    assert await _log(bench) == [last, chunk(0, 3, choice=1)]


async def test_a_last_chunk_over_tokens_that_were_written_without_an_end_is_behind(bench: Bench) -> None:
    run = await bench.run()
    await bench.append(run.token, chunk(0, 1, 2))
    answer = await bench.append(run.token, chunk(0, 1, 2, finish=FinishReason.STOP))
    assert (answer.status, answer.next_positions) == (AppendStatus.BEHIND, {0: 2})
    assert await _log(bench) == [chunk(0, 1, 2)]


async def test_nothing_is_written_after_the_outcome_is_sealed(bench: Bench) -> None:
    run = await bench.run()
    await bench.append(run.token, chunk(0, 1))
    await bench.ledger.seal(bench.request_id, run.token, bench.outcome())
    assert (await bench.append(run.token, chunk(1, 2))).status is AppendStatus.CLOSED
    assert (await bench.append(run.token, chunk(0, 1))).status is AppendStatus.OK
    assert await _log(bench) == [chunk(0, 1)]


async def test_nothing_is_written_after_a_verdict(bench: Bench) -> None:
    ended = await bench.claim(deadline_ms=1)
    assert isinstance(ended, Ended)
    assert (await bench.append(ended.token, chunk(0, 1))).status is AppendStatus.CLOSED
    assert await _log(bench) == []


async def test_an_append_without_tokens_or_end_is_refused_before_it_is_sent(bench: Bench) -> None:
    run = await bench.run()
    with pytest.raises(ValueError, match="without tokens"):
        await bench.append(run.token, chunk(0))


async def test_one_flush_answers_for_each_request_in_order(bench: Bench) -> None:
    requests = []
    for index in range(150):
        bench.request_id = type(bench.request_id)(f"{index:032}")
        requests.append((bench.request_id, (await bench.run()).token))
    batch = [
        Append(request_id=request_id, token=token, chunks=(chunk(int(request_id) % 2, 1),))
        for request_id, token in requests
    ]
    answers = await bench.ledger.append(batch)
    assert [answer.status for answer in answers] == [AppendStatus.OK, AppendStatus.BEHIND] * 75
    assert await bench.ledger.append([]) == []


async def test_an_append_to_an_unknown_request_is_fenced(bench: Bench) -> None:
    run = await bench.run()
    bench.request_id = type(bench.request_id)("e" * 32)
    answer = await bench.append(run.token, chunk(0, 1))
    assert (answer.status, dict(answer.next_positions)) == (AppendStatus.FENCED, {})


async def test_appended_chunks_and_the_terminal_reach_the_registered_channel(bench: Bench) -> None:
    await bench.ledger.register(bench.registration(), channel="gateway-1")
    async with bench.ledger.listen("gateway-1") as messages:
        run = await bench.run()
        await bench.append(run.token, chunk(0, 1), chunk(0, 2, choice=1))
        await bench.append(run.token, chunk(0, 1))
        await bench.append(run.token, chunk(1, 3, finish=FinishReason.STOP))
        await bench.ledger.seal(bench.request_id, run.token, bench.outcome())
        await bench.ledger.finish(bench.request_id)
        await bench.ledger.finish(bench.request_id)
        other = Bench(bench.open_ledger, bench.ledger)
        await other.ledger.register(other.registration(), channel="gateway-1")
        await other.append((await other.run()).token, chunk(0, 4))
        assert await _collect(messages, 5) == [
            StreamMessage(request_id=bench.request_id, chunk=chunk(0, 1)),
            StreamMessage(request_id=bench.request_id, chunk=chunk(0, 2, choice=1)),
            StreamMessage(request_id=bench.request_id, chunk=chunk(1, 3, finish=FinishReason.STOP)),
            StreamMessage(request_id=bench.request_id, terminal=bench.outcome()),
            StreamMessage(request_id=other.request_id, chunk=chunk(0, 4)),
        ]


async def test_a_wide_flush_reaches_the_channel_whole_and_in_order(bench: Bench) -> None:
    """More requests and more chunks than msgpack's short array headers hold."""
    requests = []
    for index in range(100):
        bench.request_id = type(bench.request_id)(f"{index:032}")
        await bench.ledger.register(bench.registration(), channel="gateway")
        requests.append((bench.request_id, (await bench.run()).token))
    chunks = tuple(chunk(position, position) for position in range(20))
    async with bench.ledger.listen("gateway") as messages:
        await bench.ledger.append(
            [Append(request_id=request_id, token=token, chunks=chunks) for request_id, token in requests]
        )
        assert await _collect(messages, 2_000) == [
            StreamMessage(request_id=request_id, chunk=part) for request_id, _ in requests for part in chunks
        ]


async def test_every_attached_channel_hears_and_a_detached_one_does_not(bench: Bench) -> None:
    await bench.ledger.register(bench.registration(), channel="one")
    await bench.ledger.attach(bench.request_id, channel="two")
    await bench.ledger.attach(bench.request_id, channel="two")
    run = await bench.run()
    async with bench.ledger.listen("one") as first, bench.ledger.listen("two") as second:
        await bench.append(run.token, chunk(0, 1))
        expected = [StreamMessage(request_id=bench.request_id, chunk=chunk(0, 1))]
        assert await _collect(first, 1) == expected
        assert await _collect(second, 1) == expected
        assert await bench.ledger.detach(bench.request_id, channel="one") == 1
        await bench.append(run.token, chunk(1, 2))
        assert (await bench.ledger.attach(bench.request_id, channel="one")) is not None
        await bench.append(run.token, chunk(2, 3))
        assert await _collect(first, 1) == [StreamMessage(request_id=bench.request_id, chunk=chunk(2, 3))]
        assert len(await _collect(second, 2)) == 2
        assert await bench.ledger.detach(bench.request_id, channel="two") == 1
        assert await bench.ledger.detach(bench.request_id, channel="two") == 1
        assert await bench.ledger.detach(bench.request_id, channel="one") == 0


async def test_attaching_gives_the_log_so_far_and_the_state(bench: Bench) -> None:
    assert await bench.ledger.attach(bench.request_id, channel="gateway") is None
    run = await bench.run()
    await bench.append(run.token, chunk(0, 1))
    snapshot = await bench.ledger.attach(bench.request_id, channel="gateway")
    assert snapshot is not None
    assert (snapshot.state, snapshot.chunks, snapshot.tenant) == (
        RequestState.RUNNING, [chunk(0, 1)], "acme",
    )  # fmt: skip
    await bench.ledger.seal(bench.request_id, run.token, bench.outcome())
    sealed = await bench.ledger.attach(bench.request_id, channel="reader")
    assert sealed is not None
    assert (sealed.state, sealed.sealed, sealed.finished) == (RequestState.SEALED, bench.outcome(), False)
    await bench.ledger.finish(bench.request_id)
    finished = await bench.ledger.attach(bench.request_id, channel="gateway")
    assert finished is not None
    assert (finished.sealed, finished.finished) == (bench.outcome(), True)
    assert await bench.ledger.detach(bench.request_id, channel="gateway") == 0


async def test_leaving_a_subscription_ends_an_iteration_in_another_task(bench: Bench) -> None:
    received: list[StreamMessage] = []

    async def read(messages: AsyncIterator[list[StreamMessage]]) -> None:
        async for batch in messages:
            received.extend(batch)

    async with bench.ledger.listen("gateway") as messages:
        reader = asyncio.ensure_future(read(messages))
        await bench.ledger.register(bench.registration(), channel="gateway")
        await bench.append((await bench.run()).token, chunk(0, 1))
        async with asyncio.timeout(10):
            while not received:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        await reader
    assert received == [StreamMessage(request_id=bench.request_id, chunk=chunk(0, 1))]


async def test_a_cancelled_request_that_nobody_holds_ends_at_its_next_claim(bench: Bench) -> None:
    await bench.ledger.register(bench.registration(), channel=None)
    answer = await bench.ledger.cancel(bench.request_id, reason="user", tenant="acme")
    assert (answer.requested, answer.known, answer.outcome) == (True, True, None)
    await bench.ledger.cancel(bench.request_id, reason="another", tenant="acme")
    ended = await bench.claim(deadline_ms=now_ms() + 60_000)
    assert isinstance(ended, Ended)
    assert (ended.verdict.value, ended.reason) == ("cancelled", "user")


async def test_a_cancellation_before_the_request_is_known_is_kept_for_it(bench: Bench) -> None:
    answer = await bench.ledger.cancel(bench.request_id, reason="early", tenant="acme")
    assert (answer.requested, answer.known) == (True, False)
    assert await bench.ledger.attach(bench.request_id, channel="reader") is None
    assert isinstance(await bench.claim(), Ended)


async def test_a_tombstone_without_a_tenant_holds_for_every_tenant(bench: Bench) -> None:
    await bench.ledger.cancel(bench.request_id, reason="operator", tenant=None)
    await bench.ledger.register(bench.registration(), channel=None)
    assert isinstance(await bench.claim(), Ended)


async def test_nobody_cancels_another_tenant_s_request(bench: Bench) -> None:
    await bench.ledger.cancel(bench.request_id, reason="foreign", tenant="mallory")
    await bench.ledger.register(bench.registration(), channel=None)
    answer = await bench.ledger.cancel(bench.request_id, reason="foreign", tenant="mallory")
    assert (answer.known, answer.outcome) == (False, None)
    run = await bench.run()
    assert not run.cancel_requested
    await bench.ledger.seal(bench.request_id, run.token, bench.outcome())
    answer = await bench.ledger.cancel(bench.request_id, reason="foreign", tenant="mallory")
    assert (answer.known, answer.outcome) == (False, None)


async def test_cancelling_a_held_request_wakes_its_holder_and_shows_in_its_appends(bench: Bench) -> None:
    run = await bench.run(ALICE)
    assert not (await bench.append(run.token, chunk(0, 1))).cancel_requested
    async with bench.ledger.listen_cancellations(ALICE) as cancellations:
        await bench.ledger.cancel(bench.request_id, reason="user", tenant=None)
        async with asyncio.timeout(10):
            assert await anext(cancellations) == bench.request_id
    assert (await bench.append(run.token, chunk(1, 2))).cancel_requested
    assert isinstance(await bench.claim(ALICE), Ended)


async def test_cancelling_an_ended_request_answers_its_outcome(bench: Bench) -> None:
    run = await bench.run()
    await bench.ledger.seal(bench.request_id, run.token, bench.outcome(Outcome.FAILED))
    for _ in range(2):
        answer = await bench.ledger.cancel(bench.request_id, reason="late", tenant="acme")
        assert (answer.requested, answer.outcome) == (False, bench.outcome(Outcome.FAILED))
        await bench.ledger.finish(bench.request_id)


async def test_a_cancel_after_a_takeover_is_a_verdict_for_the_next_claimer_with_the_log(bench: Bench) -> None:
    run = await bench.run(ALICE)
    await bench.append(run.token, chunk(0, 1))
    await bench.ledger.cancel(bench.request_id, reason="user", tenant=None)
    await bench.ledger.drop_lease(ALICE)
    ended = await bench.claim(BOB)
    assert isinstance(ended, Ended)
    assert ended.chunks == [chunk(0, 1)]
    assert not isinstance(await bench.claim(ALICE), Run)
