"""Whatever was asked for survives a failover: each feature on a real engine, cut after every third flush.

What dies with a worker is everything but the record and the log. The next one begins with these two, and ends with the
same text, tokens, log-probabilities, calls, finish reasons and usage. In float32, on a model that keeps rounding small.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import Cancel
from services.worker.prompt_reading import EngineLimits, PromptReader
from services.worker.record_reading import RecordReader
from services.worker.request_path import _text_tokenizer
from services.worker.running_request import RunningRequest
from shared.contracts.events import Chunk, InferenceOutcome
from shared.contracts.identifiers import ClaimToken
from shared.contracts.topics import TopicNames
from shared.tokenization.tokenizer import Tokenizer
from tests.builders import tiny_checkpoint
from tests.unit.services.worker.path_harness import JournalDelivery, PathHarness

MODEL = "tiny"
FREE = {"temperature": 0.8, "ignore_eos": True, "max_tokens": 48, "seed": 11}
PLACE = {
    "type": "object",
    "properties": {
        "city": {"enum": ["東京", "Zürich", "Straße"]},
        "gates": {"type": "array", "items": {"enum": ["open", "shut"]}, "minItems": 3, "maxItems": 6},
    },
    "required": ["city", "gates"],
    "additionalProperties": False,
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
TOOL = {"type": "function", "function": {"name": "set_gates", "parameters": PLACE, "strict": True}}


def chat(content: str = "go on", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **FREE, **more}


BODIES = {
    "multi-byte text": chat("東京 🙂 Straße"),
    "several choices": chat(n=3),
    "log-probabilities": chat(logprobs=True, top_logprobs=2, n=2),
    "the best of several": {"prompt": "Events flow", "best_of": 3, "n": 2, "logprobs": 1, **FREE},
    "an echo that is scored": {"prompt": "A penstock", "echo": True, "logprobs": 1, **FREE},
    "a schema in each choice": chat(response_format=SCHEMA, n=2, max_tokens=160),
    "tool calls": chat(tools=[TOOL], tool_choice="required", max_tokens=160),
    "greedy with penalties": chat(temperature=0.0, frequency_penalty=0.7, presence_penalty=0.3),
    "token ids": chat(return_token_ids=True),
}


class Lives:
    """One request on real engines; the log is what passes from one life to the next."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, body: dict[str, Any]) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._body = {"model": MODEL, **body}
        self.log: list[Chunk] = []

    async def claim(self) -> RunningRequest:
        record = PathHarness.record(json.dumps(self._body).encode())
        reader = RecordReader(names=TopicNames(), pool="default", cluster="c", model=MODEL)
        work = reader(JournalDelivery(record, []))
        assert work.refusal is None, work.refusal
        ready = self._engine.ready
        limits = EngineLimits(
            models=frozenset({MODEL}),
            max_model_tokens=ready.max_model_tokens,
            vocabulary_size=ready.vocabulary_size,
            max_choices=ready.max_running_sequences,
        )
        max_tokens = await PromptReader(self._tokenizer, lambda: limits).read(work)
        return RunningRequest(
            work,
            token=ClaimToken("t"),
            seed=11,
            max_tokens=max_tokens,
            chunks=self.log,
            tokenizer=_text_tokenizer(self._tokenizer),
            claimed_ns=0,
        )

    async def live(self, *, num_flushes: int | None = None) -> InferenceOutcome:
        """To the end, or until so many flushes are in the log; a flush holds two steps, and what follows is lost."""
        run, engine = await self.claim(), self._engine
        submission = run.submission()
        if submission is not None:
            engine.submit(submission)
        while not (run.is_over and not run.has_news) and num_flushes != 0:
            for _ in range(2):
                for event in engine.step().tokens if engine.has_work else ():
                    if run.accept(event):
                        engine.cancel(Cancel(request_id=event.request_id, choice=event.choice))
            self.log.extend(run.next_chunks())
            run.acknowledge()
            num_flushes = None if num_flushes is None else num_flushes - 1
        engine.cancel(Cancel(request_id=run.work.request_id))
        while engine.has_work:
            engine.step()
        return run.outcome()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"), initializer_range=0.1)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Engine:
    return Engine.load(EngineConfig(model=checkpoint, num_kv_blocks=256, num_threads=1))


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_directory(checkpoint)


async def outcome_with_cuts(engine: Engine, tokenizer: Tokenizer, body: dict[str, Any], *, every: int) -> Any:
    return await answer_with_cuts(Lives(engine, tokenizer, body), every=every)


async def answer_with_cuts(lives: Lives, *, every: int) -> InferenceOutcome:
    num_lives = 0
    while True:
        before = len(lives.log)
        await lives.live(num_flushes=every)
        num_lives += 1
        run = await lives.claim()
        if run.submission() is None or len(lives.log) == before:
            break
    assert num_lives > 3, "it was cut several times"
    return await lives.live()


@pytest.mark.parametrize("feature", BODIES)
async def test_its_answer_is_that_of_an_undisturbed_run(engine: Engine, tokenizer: Tokenizer, feature: str) -> None:
    body = BODIES[feature]
    expected = await Lives(engine, tokenizer, body).live()
    answered = await outcome_with_cuts(engine, tokenizer, body, every=3)
    assert without_scores(answered) == without_scores(expected)
    assert scores(answered) == pytest.approx(scores(expected), abs=1e-4)
    assert answered.usage.completion_tokens == expected.usage.completion_tokens


async def test_a_stop_string_that_lies_across_the_cut_ends_the_text_where_it_would_have(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    text = (await Lives(engine, tokenizer, chat()).live()).choices[0].text
    body = chat(stop=text[len(text) // 2 :][:6])
    expected = await Lives(engine, tokenizer, body).live()
    assert (expected.choices[0].finish_reason, len(expected.choices[0].text)) == ("stop", len(text) // 2)
    for every in (1, 2, 3):
        answered = await outcome_with_cuts(engine, tokenizer, body, every=every)
        assert without_scores(answered) == without_scores(expected)


async def test_in_bfloat16_the_next_worker_continues_what_was_delivered(checkpoint: Path, tokenizer: Tokenizer) -> None:
    """Other tokens than without the cut may follow; what is in the log stays, nothing is left out or said twice."""
    engine = Engine.load(EngineConfig(model=checkpoint, dtype="bfloat16", num_kv_blocks=256, num_threads=1))
    lives = Lives(engine, tokenizer, chat("東京 🙂 Straße", n=2, return_token_ids=True))
    delivered: list[list[Chunk]] = []
    while not delivered or len(lives.log) > len(delivered[-1]):
        delivered.append(list(lives.log))
        await lives.live(num_flushes=3)
    outcome = await lives.live()
    assert len(delivered) > 3, "it was cut several times"
    for choice in outcome.choices:
        assert choice.token_ids is not None
        assert (len(choice.token_ids), choice.finish_reason) == (48, "length")
        for chunks in delivered:
            ours = [chunk for chunk in chunks if chunk.choice == choice.index]
            said = [token_id for chunk in ours for token_id in chunk.token_ids]
            assert list(choice.token_ids[: len(said)]) == said
            assert choice.text.startswith("".join(chunk.text for chunk in ours))


def without_scores(outcome: InferenceOutcome) -> list[Any]:
    return [
        (choice.index, choice.text, choice.token_ids, choice.finish_reason, choice.tool_calls)
        for choice in outcome.choices
    ]


def scores(outcome: InferenceOutcome) -> list[float]:
    return [entry.logprob for choice in outcome.choices for entry in choice.logprobs or () if entry.logprob is not None]
