"""One reader against an in-memory ledger: gaps, repeats, overflow, silence, loss, tails, the log's absence."""

import json
from dataclasses import dataclass, replace

import pytest

from services.gateway.stream_order import StreamOrder
from services.gateway.stream_reader import Progress, StreamReader
from services.gateway.stream_router import StreamRouter, Subscription
from shared.contracts.errors import EngineFailed, InvariantViolated
from shared.contracts.events import Chunk, FinishReason, SealedOutcome
from shared.contracts.identifiers import RequestId, body_fingerprint
from shared.contracts.requests import Lane, RequestKind
from shared.ledger.records import LOST, Registration, StreamMessage
from shared.messaging.records import SourceRecord
from shared.openai.envelope import gateway_headers, gateway_request_id
from shared.resilience.clock import ManualClock
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.scripted_worker import Job, ScriptedWorker

CHANNEL = "gateway-1"
BODY = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}'


@dataclass
class Bench:
    """A claimed request and a reader of it; live messages are handed in by the test."""

    ledger: InMemoryLedger
    clock: ManualClock
    router: StreamRouter
    subscription: Subscription
    reader: StreamReader
    job: Job

    @property
    def request_id(self) -> RequestId:
        return self.subscription.request_id

    def hear(self, *chunks: Chunk) -> None:
        self.router.dispatch([StreamMessage(request_id=self.request_id, chunk=chunk) for chunk in chunks])

    async def next_text(self) -> str:
        return text_of(await self.reader.next())


def text_of(progress: Progress) -> str:
    return "".join(chunk.text for chunk in progress.chunks)


async def bench_with(*, buffer_chunks: int = 16, wants_chunks: bool = True, starts_from_log: bool = False) -> Bench:
    ledger, clock = InMemoryLedger(), ManualClock()
    router = StreamRouter(buffer_chunks=buffer_chunks, monotonic=clock.monotonic)
    request_id = gateway_request_id(tenant="t", event_id="e")
    await ledger.register(
        Registration(
            request_id=request_id,
            pool="default",
            lane=Lane.INTERACTIVE,
            tenant="t",
            deadline_ms=None,
            fingerprint=body_fingerprint(BODY),
            seed=1,
        ),
        channel=CHANNEL,
    )
    headers = gateway_headers(event_id="e", tenant="t", kind=RequestKind.CHAT, accepted_at_ms=1)
    record = SourceRecord(
        topic="inference.requests.default.interactive",
        partition=0,
        offset=0,
        timestamp_ms=1,
        key=None,
        value=BODY,
        headers=headers,
    )
    job = await ScriptedWorker(ledger).claim(record)
    assert isinstance(job, Job)
    subscription = router.open(request_id, wants_chunks=wants_chunks)
    reader = StreamReader(
        subscription,
        ledger,
        channel=CHANNEL,
        order=StreamOrder(1) if wants_chunks else None,
        silence_seconds=1.0,
        monotonic=clock.monotonic,
        starts_from_log=starts_from_log,
    )
    return Bench(ledger, clock, router, subscription, reader, job)


@pytest.fixture
async def bench() -> Bench:
    return await bench_with()


async def test_live_chunks_pass_without_a_look_at_the_log(bench: Bench) -> None:
    bench.ledger.available = False
    bench.hear(bench.job.chunk("ab"), bench.job.chunk("c"))
    assert await bench.next_text() == "abc"


async def test_a_repeat_is_shown_once(bench: Bench) -> None:
    chunk = bench.job.chunk("ab")
    bench.hear(chunk, chunk)
    assert await bench.next_text() == "ab"


async def test_a_gap_is_filled_from_the_log(bench: Bench) -> None:
    first, second, third = (bench.job.chunk(text) for text in ("a", "b", "c"))
    await bench.job.append(first, second, third)
    bench.hear(first, third)
    assert await bench.next_text() == "abc"


async def test_an_overflow_is_served_from_the_log() -> None:
    bench = await bench_with(buffer_chunks=2)
    chunks = [bench.job.chunk(text) for text in "abcdef"]
    await bench.job.append(*chunks)
    bench.hear(*chunks)
    assert await bench.next_text() == "abcdef"
    more = bench.job.chunk("g")
    bench.hear(more)
    assert await bench.next_text() == "g"


async def test_a_silent_second_looks_at_the_log(bench: Bench) -> None:
    await bench.job.say("ab")
    bench.clock.move(0.9)
    bench.subscription.wake()
    assert await bench.next_text() == ""
    bench.clock.move(0.2)
    bench.router.wake_quiet(1.0)
    assert await bench.next_text() == "ab"


async def test_silence_that_goes_on_is_asked_about_less_often(bench: Bench) -> None:
    looks = 0
    attach = bench.ledger.attach

    async def counted(request_id: RequestId, *, channel: str) -> object:
        nonlocal looks
        looks += 1
        return await attach(request_id, channel=channel)

    bench.ledger.attach = counted  # type: ignore[method-assign,assignment]
    for _ in range(60):
        bench.clock.move(0.5)
        bench.subscription.wake()
        await bench.reader.next()
    assert 7 <= looks <= 10


async def test_a_lost_channel_is_made_up_for_and_subscribed_again(bench: Bench) -> None:
    await bench.job.say("ab")
    await bench.ledger.detach(bench.request_id, channel=CHANNEL)
    bench.router.dispatch([LOST])
    assert await bench.next_text() == "ab"
    assert bench.ledger.store.entries[bench.request_id].subscribers == [CHANNEL]


async def test_a_ledger_that_is_away_is_asked_again_later(bench: Bench) -> None:
    first, second = bench.job.chunk("a"), bench.job.chunk("b")
    await bench.job.append(first, second)
    bench.ledger.available = False
    bench.hear(second)
    assert await bench.next_text() == ""
    bench.ledger.available = True
    bench.clock.move(1.0)
    bench.router.wake_quiet(1.0)
    assert await bench.next_text() == "ab"


async def test_the_terminal_fills_a_missing_tail(bench: Bench) -> None:
    bench.hear(bench.job.chunk("a"))
    await bench.next_text()
    bench.job.positions.clear()
    bench.job.texts.clear()
    await bench.job.say("a")
    await bench.job.say("bc", finish=FinishReason.STOP)
    sealed = await bench.job.complete()
    bench.router.dispatch([StreamMessage(request_id=bench.request_id, terminal=sealed)])
    progress = await bench.reader.next()
    assert text_of(progress) == "bc"
    assert progress.chunks[-1].finish_reason is FinishReason.STOP
    assert progress.terminal == sealed


async def test_without_a_log_the_tail_comes_from_the_result(bench: Bench) -> None:
    bench.hear(bench.job.chunk("a"))
    await bench.next_text()
    bench.job.chunk("bc", finish=FinishReason.LENGTH)
    sealed = await bench.job.complete()
    bench.ledger.available = False
    bench.router.dispatch([StreamMessage(request_id=bench.request_id, terminal=sealed)])
    progress = await bench.reader.next()
    assert text_of(progress) == "bc"
    assert progress.chunks[-1].finish_reason is FinishReason.LENGTH


async def test_a_terminal_whose_wake_up_was_lost_is_found_in_the_log(bench: Bench) -> None:
    await bench.job.say("a", finish=FinishReason.STOP)
    sealed = await bench.job.complete()
    bench.clock.move(1)
    bench.router.wake_quiet(1.0)
    progress = await bench.reader.next()
    assert (text_of(progress), progress.terminal) == ("a", sealed)


async def test_an_outcome_that_is_sealed_and_not_finished_is_not_shown(bench: Bench) -> None:
    await bench.ledger.seal(bench.request_id, bench.job.token, bench.job.completed())
    bench.clock.move(1)
    bench.router.wake_quiet(1.0)
    assert (await bench.reader.next()).terminal is None


async def test_a_failure_needs_no_tail(bench: Bench) -> None:
    sealed = await bench.job.fail(EngineFailed("broke"))
    bench.router.dispatch([StreamMessage(request_id=bench.request_id, terminal=sealed)])
    progress = await bench.reader.next()
    assert (progress.chunks, progress.terminal) == ([], sealed)


async def test_a_contradiction_ends_the_stream_instead_of_going_on(bench: Bench) -> None:
    bench.hear(Chunk(choice=0, position=0, token_ids=(7, 8), text="xy"))
    await bench.next_text()
    await bench.job.say("abc")
    bench.clock.move(1)
    bench.router.wake_quiet(1.0)
    with pytest.raises(InvariantViolated):
        await bench.reader.next()


async def test_a_reader_that_starts_from_the_log_does_not_wait_for_a_message() -> None:
    bench = await bench_with(starts_from_log=True)
    await bench.job.say("ab")
    assert await bench.next_text() == "ab"


async def test_a_reader_of_the_outcome_gets_no_chunks() -> None:
    bench = await bench_with(wants_chunks=False)
    await bench.job.say("ab")
    sealed = await bench.job.complete()
    bench.router.dispatch([StreamMessage(request_id=bench.request_id, terminal=sealed)])
    progress = await bench.reader.next()
    assert (progress.chunks, progress.terminal) == ([], sealed)


def called(sealed: SealedOutcome) -> SealedOutcome:
    """The same outcome with a tool call in its only choice."""
    function = {"name": "f", "arguments": '{"x": 1}'}
    message = {"role": "assistant", "content": "Wait.", "tool_calls": [{"id": "c", "function": function}]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return replace(sealed, value=json.dumps({"choices": [choice]}).encode())


async def test_without_a_log_a_call_comes_from_the_result_in_the_models_spelling(bench: Bench) -> None:
    bench.job.chunk("unheard", finish=FinishReason.STOP)
    sealed = await bench.job.end(called(bench.job.completed()))
    bench.ledger.available = False
    bench.router.dispatch([StreamMessage(request_id=bench.request_id, terminal=sealed)])
    progress = await bench.reader.next()
    assert text_of(progress) == 'Wait.<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    assert progress.chunks[-1].finish_reason is FinishReason.TOOL_CALLS


async def test_in_the_middle_of_a_call_its_result_is_no_tail(bench: Bench) -> None:
    """What the model wrote is gone: the rest of the rendered call might contradict what was delivered."""
    bench.hear(bench.job.chunk("Wait"))
    await bench.next_text()
    bench.job.chunk("unheard", finish=FinishReason.STOP)
    sealed = await bench.job.end(called(bench.job.completed()))
    bench.ledger.available = False
    bench.router.dispatch([StreamMessage(request_id=bench.request_id, terminal=sealed)])
    with pytest.raises(InvariantViolated, match="read its result"):
        await bench.reader.next()
