import pytest

from services.worker.best_choices import best_choices, mean_logprob, ranked_sampling, wants_logprobs
from shared.contracts.events import ChoiceResult, FinishReason, TokenLogprob
from shared.contracts.requests import InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters


def request(
    *, n: int = 1, best_of: int | None = None, logprobs: int | None = None, prompts: int = 1
) -> InferenceRequest:
    return InferenceRequest(
        kind=RequestKind.COMPLETION,
        model=None,
        prompts=(Prompt(text="x"),) * prompts,
        sampling=SamplingParameters(n=n, logprobs=logprobs),
        best_of=best_of,
    )


def choice(index: int, *logprobs: float) -> ChoiceResult:
    return ChoiceResult(
        index=index,
        text=f"text {index}",
        token_ids=tuple(range(len(logprobs))),
        finish_reason=FinishReason.LENGTH,
        logprobs=tuple(TokenLogprob(token_id=0, text="x", logprob=value) for value in logprobs),
    )


def texts(choices: tuple[ChoiceResult, ...]) -> list[str]:
    return [one.text for one in choices]


def test_the_highest_mean_is_kept_though_its_sum_is_the_lowest() -> None:
    long, short = choice(0, *[-0.5] * 9), choice(1, -1.0)
    kept = best_choices([long, short], request(best_of=2))
    assert texts(kept) == ["text 0"]


def test_the_kept_are_numbered_anew_the_best_first() -> None:
    kept = best_choices([choice(0, -3.0), choice(1, -2.0), choice(2, -1.0)], request(n=2, best_of=3))
    assert [(one.index, one.text) for one in kept] == [(0, "text 2"), (1, "text 1")]


def test_each_prompt_keeps_its_own_best() -> None:
    choices = [choice(0, -1.0), choice(1, -2.0), choice(2, -9.0), choice(3, -8.0)]
    kept = best_choices(choices, request(best_of=2, prompts=2))
    assert [(one.index, one.text) for one in kept] == [(0, "text 0"), (1, "text 3")]


def test_of_equals_the_earlier_is_kept_and_one_without_a_token_is_last() -> None:
    kept = best_choices([choice(0), choice(1, -2.0), choice(2, -2.0)], request(n=2, best_of=3))
    assert texts(kept) == ["text 1", "text 2"]
    assert mean_logprob(choice(0)) == float("-inf")


@pytest.mark.parametrize("best_of", [None, 2])
def test_as_many_as_are_asked_for_are_left_as_they_are(best_of: int | None) -> None:
    choices = [choice(0, -3.0), choice(1, -1.0)]
    assert best_choices(choices, request(n=2, best_of=best_of)) == tuple(choices)


def test_who_did_not_ask_for_log_probabilities_gets_none() -> None:
    choices = [choice(0, -3.0), choice(1, -1.0)]
    assert best_choices(choices, request(best_of=2))[0].logprobs is None
    assert best_choices(choices, request(best_of=2, logprobs=0))[0].logprobs == choices[1].logprobs


@pytest.mark.parametrize(
    ("asked", "logprobs"),
    [(request(), None), (request(logprobs=2), 2), (request(best_of=2), 0), (request(best_of=2, logprobs=3), 3)],
)
def test_ranking_needs_log_probabilities_whoever_asked(asked: InferenceRequest, logprobs: int | None) -> None:
    assert ranked_sampling(asked).logprobs == logprobs
    assert wants_logprobs(asked) == (logprobs is not None)
