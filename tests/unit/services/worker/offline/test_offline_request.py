from dataclasses import replace
from pathlib import Path

import pytest

from services.worker.engine.events import LogprobEntry, RequestTimings, TokensSampled
from services.worker.null_engine import NullEngine, NullEngineConfig
from services.worker.offline.offline_request import OfflineRequest, PreparedPrompts, prepare_prompts
from shared.contracts.errors import InvalidRequest, PromptTooLong
from shared.contracts.events import FinishReason
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool
from shared.tokenization.tokenizer import Tokenizer
from tests.fixtures.tiny_tokenizers import write_tokenizer

LIMITS = NullEngine(NullEngineConfig(vocabulary=(0, 99), max_model_tokens=20)).ready
REQUEST_ID = RequestId("0" * 32)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_directory(write_tokenizer(tmp_path))


def request(*prompts: Prompt, has_own_seed: bool = False, **sampling: object) -> InferenceRequest:
    return InferenceRequest(
        kind=RequestKind.COMPLETION,
        model=None,
        prompts=prompts or (Prompt(token_ids=(1, 2, 3)),),
        sampling=SamplingParameters(**sampling),  # type: ignore[arg-type]
        has_own_seed=has_own_seed,
    )


def running(asked: InferenceRequest, tokenizer: Tokenizer | None) -> OfflineRequest:
    prompts = PreparedPrompts(token_ids=[list(prompt.token_ids or ()) for prompt in asked.prompts], max_tokens=9)
    return OfflineRequest(REQUEST_ID, asked, prompts, tokenizer, order=4)


def sampled(*token_ids: int, choice: int = 0, position: int = 0, finish: str | None = None) -> TokensSampled:
    return TokensSampled(
        request_id=REQUEST_ID,
        choice=choice,
        position=position,
        token_ids=list(token_ids),
        finish_reason=finish,
        logprobs=[LogprobEntry(logprob=-0.5, top_token_ids=[66], top_logprobs=[-0.7])] * len(token_ids),
    )


def test_an_answer_without_a_limit_may_fill_the_context(tokenizer: Tokenizer) -> None:
    assert prepare_prompts(request(), tokenizer, LIMITS).max_tokens == 17
    assert prepare_prompts(request(max_tokens=17), tokenizer, LIMITS).max_tokens == 17


@pytest.mark.parametrize(("length", "max_tokens"), [(20, None), (19, 2), (3, 18)])
def test_what_does_not_fit_the_context_is_refused(tokenizer: Tokenizer, length: int, max_tokens: int | None) -> None:
    asked = request(Prompt(token_ids=(1,) * length), max_tokens=max_tokens)
    with pytest.raises(PromptTooLong, match="20 tokens") as caught:
        prepare_prompts(asked, tokenizer, LIMITS)
    assert caught.value.param == "prompt"


def test_the_longest_prompt_counts(tokenizer: Tokenizer) -> None:
    asked = request(Prompt(token_ids=(1,)), Prompt(token_ids=(1,) * 12))
    assert prepare_prompts(asked, tokenizer, LIMITS).max_tokens == 8


@pytest.mark.parametrize("token_id", [100, -1])
def test_a_token_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(InvalidRequest, match=str(token_id)):
        prepare_prompts(request(Prompt(token_ids=(1, token_id))), tokenizer, LIMITS)


def test_an_empty_prompt_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        prepare_prompts(request(Prompt(text="")), tokenizer, LIMITS)


def test_what_goes_to_the_engine_says_everything(tokenizer: Tokenizer) -> None:
    asked = request(Prompt(token_ids=(1,)), Prompt(token_ids=(2, 3)), n=2, seed=8, has_own_seed=True)
    submit = running(asked, tokenizer).submission([7])
    assert [choice.prompt_token_ids for choice in submit.choices] == [[1], [1], [2, 3], [2, 3]]
    assert len({choice.seed for choice in submit.choices}) == 4
    assert submit.choices[0].seed == 8
    assert (submit.sampling.max_tokens, submit.eos_token_ids, submit.order) == (9, [7], (0, 0, 0, 4))


def test_a_seed_comes_from_the_id_unless_the_caller_brought_one(tokenizer: Tokenizer) -> None:
    derived = running(request(seed=0), tokenizer).submission([]).sampling.seed
    assert derived == running(request(seed=0), tokenizer).submission([]).sampling.seed != 0
    assert running(request(seed=0, has_own_seed=True), tokenizer).submission([]).sampling.seed == 0


def test_it_is_finished_when_its_last_choice_is(tokenizer: Tokenizer) -> None:
    run = running(request(n=2), tokenizer)
    run.accept(sampled(64, finish="stop"))
    assert not run.is_finished
    run.accept(sampled(65, 66, choice=1, finish="length"))
    assert run.is_finished
    outcome = run.outcome(model="m", created_seconds=1)
    assert [choice.finish_reason for choice in outcome.choices] == ["stop", "length"]
    assert outcome.usage is not None
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (3, 3)


def test_log_probabilities_carry_the_tokens_text(tokenizer: Tokenizer) -> None:
    run = running(request(logprobs=1), tokenizer)
    run.accept(sampled(64, finish="stop"))
    (choice,) = run.outcome(model="m", created_seconds=1).choices
    assert choice.logprobs is not None
    assert (choice.logprobs[0].text, choice.logprobs[0].top) == (
        tokenizer.token_text(64),
        ((66, tokenizer.token_text(66), -0.7),),
    )


def test_without_a_tokenizer_tokens_are_shown_by_their_number() -> None:
    run = running(request(logprobs=0), None)
    run.accept(sampled(64, finish="stop"))
    (choice,) = run.outcome(model="m", created_seconds=1).choices
    assert choice.logprobs is not None
    assert (choice.text, choice.logprobs[0].text) == ("", "token_id:64")


def test_cached_prompt_tokens_are_told(tokenizer: Tokenizer) -> None:
    run = running(request(), tokenizer)
    run.accept(sampled(64, finish="stop"))
    run.note_timings(
        RequestTimings(
            request_id=REQUEST_ID,
            submitted_ns=0,
            scheduled_ns=0,
            first_token_ns=0,
            last_token_ns=0,
            cached_prompt_tokens=2,
            num_preemptions=0,
        )
    )
    usage = run.outcome(model="m", created_seconds=1).usage
    assert usage is not None
    assert usage.cached_tokens == 2


def test_an_echo_begins_with_the_prompt_and_asks_for_its_scores(tokenizer: Tokenizer) -> None:
    asked = replace(request(Prompt(text="hello"), logprobs=1), echo=True)
    prompts = prepare_prompts(asked, tokenizer, LIMITS)
    offline = OfflineRequest(REQUEST_ID, asked, prompts, tokenizer, order=1)
    assert offline.submission([0]).prompt_logprobs
    (word,) = tokenizer.encode("hello")
    offline.accept(sampled(word, finish="stop"))
    (choice,) = offline.outcome(model="m", created_seconds=1).choices
    assert choice.text == "hellohello"


def test_without_scores_asked_for_none_are_computed(tokenizer: Tokenizer) -> None:
    assert not running(replace(request(), echo=True), tokenizer).submission([0]).prompt_logprobs
    assert not running(request(logprobs=1), tokenizer).submission([0]).prompt_logprobs


def test_a_grammar_needs_a_tokenizer_and_reaches_the_engine(tokenizer: Tokenizer) -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="a", field="structured_outputs")
    asked = replace(request(), grammar=grammar)
    assert running(asked, tokenizer).submission([0]).grammar == grammar
    with pytest.raises(InvalidRequest) as refusal:
        prepare_prompts(asked, None, LIMITS)
    assert refusal.value.param == "structured_outputs"


def test_calls_in_the_text_are_told_as_calls(tokenizer: Tokenizer) -> None:
    asked = InferenceRequest(
        kind=RequestKind.CHAT,
        model=None,
        messages=(ChatMessage(role="user", content="x"),),
        sampling=SamplingParameters(),
        tools=(Tool(name="f"),),
    )
    offline = OfflineRequest(REQUEST_ID, asked, PreparedPrompts(token_ids=[[1]], max_tokens=99), tokenizer, order=1)
    offline.accept(sampled(*tokenizer.encode('<tool_call>{"name": "f", "arguments": {}}</tool_call>'), finish="stop"))
    (choice,) = offline.outcome(model="m", created_seconds=1).choices
    assert [(call.name, call.arguments) for call in choice.tool_calls] == [("f", "{}")]
    assert choice.finish_reason is FinishReason.TOOL_CALLS
    assert choice.text == ""
