"""Wherever the log is cut, the next worker ends with the same tokens, the same text and the same finish reasons."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.worker.engine.events import Cancel, ChoiceStart, LogprobEntry, Submit, TokensSampled
from services.worker.null_engine import NullEngine, NullEngineConfig
from services.worker.record_reading import RecordReader
from services.worker.request_path import _text_tokenizer
from services.worker.running_request import RunningRequest, choice_seed
from services.worker.work import Work
from shared.contracts.events import Chunk
from shared.contracts.identifiers import ClaimToken
from shared.messaging.records import SourceRecord
from tests.unit.services.worker.path_harness import NAMES, POSTED_MS, TOKENIZER, JournalDelivery

# Bytes of two- and four-byte characters too, so that flushes cut characters in two.
VOCABULARY = tuple(TOKENIZER.encode("ab \u00e9\U0001f600"))
END = TOKENIZER.eos_token_ids[0]


def make_work(body: dict[str, Any]) -> Work:
    record = SourceRecord(
        topic="inference.requests.default.interactive",
        partition=0,
        offset=1,
        timestamp_ms=POSTED_MS,
        key=None,
        value=json.dumps(body).encode(),
        headers=(),
    )
    work = RecordReader(names=NAMES, pool="default", cluster="c", model="m")(JournalDelivery(record, []))
    assert work.request is not None
    work.prompts = [TOKENIZER.encode_prompt(prompt.text or "") for prompt in work.request.prompts]
    return work


class Fleet:
    """Runs one request over as many lives as it is cut into; the log is what survives."""

    def __init__(self, body: dict[str, Any], vocabulary: tuple[int, ...] = VOCABULARY) -> None:
        self.body = body
        self.log: list[Chunk] = []
        self._vocabulary = vocabulary

    def claim(self) -> RunningRequest:
        work = make_work(self.body)
        assert work.request is not None
        return RunningRequest(
            work,
            token=ClaimToken("t"),
            seed=7,
            max_tokens=work.request.sampling.max_tokens or 20,
            chunks=self.log,
            tokenizer=_text_tokenizer(TOKENIZER),
            claimed_ns=0,
        )

    def live(self, *, num_flushes: int | None, steps_per_flush: int) -> RunningRequest:
        """Run until the end, or until this many flushes have reached the log; the rest is lost."""
        run = self.claim()
        engine = NullEngine(NullEngineConfig(vocabulary=self._vocabulary))
        submission = run.submission()
        if submission is not None:
            engine.submit(submission)
        while num_flushes is None or num_flushes > 0:
            for _ in range(steps_per_flush):
                for event in engine.step().tokens if engine.has_work else ():
                    _accept(run, event, engine)
            self.log.extend(run.next_chunks())
            run.acknowledge()
            if run.is_over and not run.has_news:
                break
            num_flushes = None if num_flushes is None else num_flushes - 1
        return run


def _accept(run: RunningRequest, event: TokensSampled, engine: NullEngine) -> None:
    """Every token with a made-up log-probability of its own: what `best_of` ranks by has to survive, too."""
    if run.request.keeps_the_best:
        scores = [
            LogprobEntry(logprob=-((event.choice * 7 + token_id) % 11) / 4, top_token_ids=[], top_logprobs=[])
            for token_id in event.token_ids
        ]
        event = msgspec.structs.replace(event, logprobs=scores)
    if run.accept(event):
        engine.cancel(Cancel(request_id=event.request_id, choice=event.choice))


BODIES = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["one", ["one", "two"]]),
        "n": st.integers(1, 3),
        "max_tokens": st.integers(1, 25),
        "stop": st.sampled_from([None, ["a"], ["ab", "\u00e9 "], ["bb\U0001f600"]]),
        "return_token_ids": st.just(True),
        "echo": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=BODIES,
    lives=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=6),
    steps=st.integers(1, 30),
)
@example(
    body={"prompt": "one", "n": 2, "max_tokens": 20, "stop": ["a"], "return_token_ids": True},
    lives=[(1, 1)] * 6,
    steps=1,
)
def test_any_sequence_of_deaths_gives_the_outcome_of_an_undisturbed_run(
    body: dict[str, Any], lives: list[tuple[int, int]], steps: int
) -> None:
    whole = Fleet(body).live(num_flushes=None, steps_per_flush=1).outcome()
    fleet = Fleet(body)
    for num_flushes, steps_per_flush in lives:
        fleet.live(num_flushes=num_flushes, steps_per_flush=steps_per_flush)
    outcome = fleet.live(num_flushes=None, steps_per_flush=steps).outcome()
    assert outcome.choices == whole.choices
    assert outcome.usage == whole.usage
    for choice in outcome.choices:
        chunks = [chunk for chunk in fleet.log if chunk.choice == choice.index]
        assert "".join(chunk.text for chunk in chunks) == choice.text
        assert tuple(token for chunk in chunks for token in chunk.token_ids) == choice.token_ids
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == [choice.finish_reason]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=BODIES, best_of=st.integers(3, 5), lives=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), max_size=4)
)
def test_the_best_of_many_are_the_same_after_any_deaths_and_all_are_counted(
    body: dict[str, Any], best_of: int, lives: list[tuple[int, int]]
) -> None:
    body = body | {"best_of": best_of}
    whole = Fleet(body).live(num_flushes=None, steps_per_flush=1).outcome()
    fleet = Fleet(body)
    for num_flushes, steps_per_flush in lives:
        fleet.live(num_flushes=num_flushes, steps_per_flush=steps_per_flush)
    outcome = fleet.live(num_flushes=None, steps_per_flush=1).outcome()
    assert (outcome.choices, outcome.usage) == (whole.choices, whole.usage)
    assert len(outcome.choices) == body["n"] * (1 if body["prompt"] == "one" else 2)
    assert outcome.usage is not None
    assert outcome.usage.completion_tokens == sum(len(chunk.token_ids) for chunk in fleet.log)


@pytest.mark.parametrize("stop", [None, ["ba"]])
def test_every_cut_of_the_log_of_one_request_resumes_to_the_same_end(stop: list[str] | None) -> None:
    body = {"prompt": "cut me", "n": 2, "max_tokens": 40, "stop": stop}
    whole = Fleet(body)
    expected = whole.live(num_flushes=None, steps_per_flush=1).outcome().choices
    assert len(whole.log) > 10
    for cut in range(len(whole.log) + 1):
        fleet = Fleet(body)
        fleet.log = whole.log[:cut]
        assert fleet.live(num_flushes=None, steps_per_flush=3).outcome().choices == expected


def test_an_end_token_in_the_log_is_not_run_past() -> None:
    """The finish reason was lost with the worker, the token that means it was not."""
    fleet = Fleet({"prompt": "x", "max_tokens": 500}, vocabulary=(*VOCABULARY, END))
    whole = fleet.live(num_flushes=None, steps_per_flush=1).outcome().choices[0]
    assert whole.token_ids[-1] == END
    last = fleet.log.pop()
    fleet.log.append(
        Chunk(choice=0, position=last.position, token_ids=last.token_ids, text=last.text, finish_reason=None)
    )
    run = fleet.claim()
    assert run.submission() is None
    assert run.outcome().choices[0] == whole


@given(st.integers(0, 2**63 - 1), st.integers(0, 200), st.integers(0, 200))
def test_choices_have_different_seeds_and_the_first_keeps_the_requests(seed: int, one: int, other: int) -> None:
    assert choice_seed(seed, 0) == seed
    assert 0 <= choice_seed(seed, one) < 2**63
    if one != other:
        assert choice_seed(seed, one) != choice_seed(seed, other)


@given(st.lists(st.integers(0, 255), max_size=40), st.integers(0, 39), st.integers(0, 2**63 - 1))
def test_the_null_engine_continues_where_it_was_cut(prompt: list[int], cut: int, seed: int) -> None:
    def tokens(output: list[int]) -> list[int]:
        engine = NullEngine(NullEngineConfig(vocabulary=VOCABULARY))
        start = ChoiceStart(index=0, prompt_token_ids=prompt, output_token_ids=output.copy(), seed=seed)
        work = make_work({"prompt": "x", "max_tokens": 40})
        assert work.request is not None
        engine.submit(Submit(request_id="r", choices=[start], sampling=work.request.sampling, eos_token_ids=[]))
        while engine.has_work:
            output = [*output, *(token for event in engine.step().tokens for token in event.token_ids)]
        return output

    whole = tokens([])
    assert len(whole) == 40
    assert tokens(whole[:cut]) == whole
