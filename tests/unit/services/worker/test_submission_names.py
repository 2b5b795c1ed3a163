"""What an engine still says of a request that was given up is not taken for what it says of its second submission."""

import pytest

from services.worker.engine.events import (
    ChoiceStart,
    RequestRejected,
    RequestTimings,
    StepResult,
    StepStatistics,
    Submit,
    TokensSampled,
)
from services.worker.null_engine import NullEngine, NullEngineConfig
from services.worker.submission_names import SubmissionNames
from shared.contracts.sampling import SamplingParameters


def a_submit(request_id: str = "r") -> Submit:
    return Submit(
        request_id=request_id,
        choices=[ChoiceStart(index=0, prompt_token_ids=[1], output_token_ids=[], seed=1)],
        sampling=SamplingParameters(max_tokens=4),
        eos_token_ids=[],
        order=(0, 0, 0, 0),
        cache_salt="",
        traceparent=None,
    )


def statistics() -> StepStatistics:
    return NullEngine(NullEngineConfig(vocabulary=(1,))).step().statistics


def a_step(*names: str) -> StepResult:
    tokens = [TokensSampled(request_id=name, choice=0, position=7, token_ids=[1], finish_reason=None) for name in names]
    timings = [
        RequestTimings(
            request_id=name, submitted_ns=1, scheduled_ns=1, first_token_ns=1, last_token_ns=1,
            cached_prompt_tokens=0, num_preemptions=0,
        )
        for name in names
    ]  # fmt: skip
    rejected = [RequestRejected(request_id=name, code="c", message="m") for name in names]
    return StepResult(tokens=tokens, timings=timings, rejected=rejected, statistics=statistics())


@pytest.fixture
def resubmitted() -> tuple[SubmissionNames, str]:
    names = SubmissionNames()
    assert names.named(a_submit()).request_id == "r", "the first submission has the request's own name"
    names.gave_up("r")
    second = names.named(a_submit()).request_id
    assert second != "r"
    return names, second


def ids(result: StepResult) -> list[list[str]]:
    return [[report.request_id for report in part] for part in (result.tokens, result.timings, result.rejected)]


def test_echoes_of_the_first_submission_are_dropped_and_the_second_is_heard(
    resubmitted: tuple[SubmissionNames, str],
) -> None:
    names, second = resubmitted
    assert ids(names.heard(a_step("r", second, "other"))) == [["r", "other"]] * 3


def test_the_engine_is_told_to_cancel_the_submission_that_runs(resubmitted: tuple[SubmissionNames, str]) -> None:
    names, second = resubmitted
    assert (names.name_of("r"), names.name_of("other")) == (second, "other")
    names.gave_up("r")
    third = names.named(a_submit()).request_id
    assert third not in ("r", second)
    assert ids(names.heard(a_step(second, third)))[0] == [second, "r"], "nobody runs under the second name any more"


def test_a_request_that_the_engine_ended_leaves_no_name_behind(resubmitted: tuple[SubmissionNames, str]) -> None:
    names, _ = resubmitted
    names.ended("r")
    result = a_step("other")
    assert names.heard(result) is result


def test_another_engine_has_no_echoes(resubmitted: tuple[SubmissionNames, str]) -> None:
    names, _ = resubmitted
    names.forget()
    assert names.named(a_submit()).request_id == "r"


def test_what_was_given_up_long_ago_is_forgotten() -> None:
    names = SubmissionNames()
    names.gave_up("r")
    for number in range(10_000):
        names.gave_up(str(number))
    assert names.named(a_submit()).request_id == "r"
