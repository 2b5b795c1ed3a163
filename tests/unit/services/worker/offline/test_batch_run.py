import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.events import RequestRejected, StepResult, Submit
from services.worker.null_engine import NullEngine, NullEngineConfig
from services.worker.offline.batch_run import BatchRun, ServedModel
from shared.contracts.errors import InvariantViolated
from shared.tokenization.tokenizer import Tokenizer
from tests.fixtures.tiny_tokenizers import CHATML, byte_level_tokenizer, write_tokenizer

LETTERS = tuple(byte_level_tokenizer().token_to_id(letter) for letter in "abcdefgh")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_directory(write_tokenizer(tmp_path, config={"chat_template": CHATML}))


def null_engine(**changes: Any) -> NullEngine:
    return NullEngine(NullEngineConfig(vocabulary=LETTERS, **{"max_model_tokens": 100, **changes}))


def batch(
    tokenizer: Tokenizer | None, engine: NullEngine | None = None, accepted: str | None = None, **options: Any
) -> BatchRun:
    model = ServedModel(name="tiny", accepted_name=accepted, tokenizer=tokenizer, eos_token_ids=())
    return BatchRun(engine or null_engine(), model, created_seconds=1_700_000_000, **options)


def completion(custom_id: str, **body: Any) -> bytes:
    fields = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions"}
    return json.dumps({**fields, "body": {"prompt": "hello", "max_tokens": 5, **body}}).encode()


def answers(run: BatchRun, lines: Iterable[bytes]) -> list[dict[str, Any]]:
    return [json.loads(answer) for answer in run.answers(lines)]


def body_of(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer["error"] is None, answer
    body: dict[str, Any] = answer["response"]["body"]
    return body


def test_every_line_is_answered_in_the_order_of_the_input(tokenizer: Tokenizer) -> None:
    lines = [completion(str(index), max_tokens=1 + (7 * index) % 11) for index in range(50)]
    found = answers(batch(tokenizer, max_open_choices=4), lines)
    assert [answer["custom_id"] for answer in found] == [str(index) for index in range(50)]
    lengths = [body_of(answer)["usage"]["completion_tokens"] for answer in found]
    assert lengths == [1 + (7 * index) % 11 for index in range(50)]


class _CountingEngine(NullEngine):
    most = 0

    def step(self) -> StepResult:
        self.most = max(self.most, len(self._running) + len(self._waiting))
        return super().step()


def test_no_more_choices_are_open_than_allowed(tokenizer: Tokenizer) -> None:
    engine = _CountingEngine(NullEngineConfig(vocabulary=LETTERS))
    run = batch(tokenizer, engine, max_open_choices=3)
    assert len(answers(run, (completion(str(index)) for index in range(20)))) == 20
    assert engine.most == 3


def test_lines_are_read_only_when_there_is_room(tokenizer: Tokenizer) -> None:
    num_read = 0

    def lines() -> Iterable[bytes]:
        nonlocal num_read
        for num_read in range(1, 1001):
            yield completion(str(num_read))

    run = batch(tokenizer, max_open_choices=3).answers(lines())
    next(iter(run))
    assert num_read <= 6


def test_bad_lines_are_answered_and_disturb_no_other(tokenizer: Tokenizer) -> None:
    run = batch(tokenizer)
    found = answers(run, [completion("a"), b"nonsense", completion("b", temperature=-1), completion("c")])
    assert [answer["response"]["status_code"] for answer in found] == [200, 400, 400, 200]
    assert found[2]["error"]["param"] == "temperature"
    assert run.num_failed == 2


def test_blank_lines_are_no_requests(tokenizer: Tokenizer) -> None:
    assert len(answers(batch(tokenizer), [b"\n", completion("a"), b"   \n", b""])) == 1


def test_an_empty_input_has_no_answers(tokenizer: Tokenizer) -> None:
    assert answers(batch(tokenizer), []) == []


def test_a_custom_id_may_stand_on_one_line_only(tokenizer: Tokenizer) -> None:
    found = answers(batch(tokenizer), [completion("a"), completion("a"), completion("b")])
    assert [answer["response"]["status_code"] for answer in found] == [200, 400, 200]
    assert found[1]["error"]["param"] == "custom_id"


def test_a_completion_has_text_token_ids_and_usage(tokenizer: Tokenizer) -> None:
    (answer,) = answers(batch(tokenizer), [completion("a", return_token_ids=True)])
    body = body_of(answer)
    choice = body["choices"][0]
    assert choice["text"] == tokenizer.decode(choice["token_ids"])
    assert (len(choice["token_ids"]), choice["finish_reason"]) == (5, "length")
    assert body["usage"]["prompt_tokens"] == len(tokenizer.encode("hello"))
    assert (body["model"], body["object"], body["created"]) == ("tiny", "text_completion", 1_700_000_000)


def test_a_prompt_of_token_ids_is_the_same_prompt(tokenizer: Tokenizer) -> None:
    as_ids = completion("b", prompt=tokenizer.encode("bad"), seed=3, return_token_ids=True)
    found = answers(batch(tokenizer), [completion("a", prompt="bad", seed=3, return_token_ids=True), as_ids])
    assert body_of(found[0])["choices"] == body_of(found[1])["choices"]


def test_several_prompts_and_several_choices_are_numbered_prompt_first(tokenizer: Tokenizer) -> None:
    several = completion("a", prompt=["he", "llo"], n=2, seed=5, return_token_ids=True)
    single = completion("b", prompt="llo", seed=5, return_token_ids=True)
    found = answers(batch(tokenizer), [several, single])
    choices = body_of(found[0])["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert len({tuple(choice["token_ids"]) for choice in choices}) == 4
    assert body_of(found[0])["usage"]["completion_tokens"] == 20


def test_a_chat_is_answered(tokenizer: Tokenizer) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    fields = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (answer,) = answers(batch(tokenizer), [json.dumps(fields).encode()])
    message = body_of(answer)["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert len(message["content"]) == 3


def test_a_stop_string_ends_a_choice_in_the_engine_too(tokenizer: Tokenizer) -> None:
    engine = null_engine()
    (plain,) = answers(batch(tokenizer), [completion("a", seed=1, max_tokens=40)])
    text = body_of(plain)["choices"][0]["text"]
    (cut,) = answers(batch(tokenizer, engine), [completion("a", seed=1, max_tokens=40, stop=[text[10:12]])])
    choice = body_of(cut)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == text[: text.index(text[10:12])]
    assert body_of(cut)["usage"]["completion_tokens"] == len(choice["text"]) + 2
    assert engine.step().statistics.num_running == 0
    assert not engine.has_work


def test_a_request_without_a_seed_is_repeatable_and_its_own(tokenizer: Tokenizer) -> None:
    lines = [completion("a"), completion("b")]
    first, second = (
        [body_of(answer)["choices"][0]["text"] for answer in answers(batch(tokenizer), lines)] for _ in range(2)
    )
    assert first == second
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": "x" * 200}, "prompt", "context_length_exceeded"),
        ({"max_tokens": 100}, "prompt", "context_length_exceeded"),
        ({"prompt": [5, 1_000_000]}, "prompt", "invalid_request"),
    ],
)
def test_what_the_engine_cannot_hold_is_refused_before_it(
    tokenizer: Tokenizer, body: dict[str, Any], param: str, code: str
) -> None:
    engine = null_engine()
    (answer,) = answers(batch(tokenizer, engine), [completion("a", **body)])
    assert (answer["error"]["param"], answer["error"]["code"]) == (param, code)
    assert engine._step == 0


def test_another_model_is_refused_when_a_name_was_given(tokenizer: Tokenizer) -> None:
    lines = [completion("a", model="other"), completion("b", model="mine"), completion("c")]
    found = answers(batch(tokenizer, accepted="mine"), lines)
    assert [answer["response"]["status_code"] for answer in found] == [404, 200, 200]
    assert answers(batch(tokenizer), lines[:1])[0]["response"]["status_code"] == 200


def test_without_a_tokenizer_token_ids_are_served_and_texts_refused() -> None:
    lines = [
        completion("ids", prompt=[1, 2], return_token_ids=True),
        completion("text"),
        completion("stop", prompt=[1, 2], stop=["x"]),
    ]
    found = answers(batch(None), lines)
    choice = body_of(found[0])["choices"][0]
    assert (choice["text"], len(choice["token_ids"])) == ("", 5)
    assert [answer["error"]["param"] for answer in found[1:]] == ["prompt", "stop"]


class _RejectingEngine(NullEngine):
    """Rejects what it was given, as an engine does that runs out of room or sees NaN."""

    def __init__(self) -> None:
        super().__init__(NullEngineConfig(vocabulary=LETTERS))
        self._rejected: list[str] = []

    def submit(self, submit: Submit) -> None:
        self._rejected.append(submit.request_id)

    @property
    def has_work(self) -> bool:
        return bool(self._rejected)

    def step(self) -> StepResult:
        rejected = [
            RequestRejected(request_id=name, code="internal_error", message="not a number", param=None)
            for name in self._rejected
        ]
        self._rejected = []
        return StepResult(tokens=[], timings=[], rejected=rejected, statistics=super().step().statistics)


def test_what_the_engine_rejects_is_answered_with_its_reason(tokenizer: Tokenizer) -> None:
    (answer,) = answers(batch(tokenizer, _RejectingEngine()), [completion("a")])
    assert (answer["response"]["status_code"], answer["error"]["message"]) == (500, "not a number")


class _ForgetfulEngine(NullEngine):
    def submit(self, submit: Submit) -> None:
        pass


def test_an_engine_that_loses_a_request_is_our_bug_and_not_an_endless_loop(tokenizer: Tokenizer) -> None:
    run = batch(tokenizer, _ForgetfulEngine(NullEngineConfig(vocabulary=LETTERS)))
    with pytest.raises(InvariantViolated, match="lost 1 requests"):
        answers(run, [completion("a")])
