"""How the samples of a routing run become figures."""

import json

import pytest

from services.cli.benchmarks.goals import missed_goals
from services.cli.benchmarks.open_loop import Sample
from services.cli.benchmarks.routing import RoutingLoad, RoutingResult, figures_of, result_of
from services.cli.console import CommandFailed


def sample(seconds: float, *, cached: int = 0, status: int = 200) -> Sample:
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": cached}}
    body = json.dumps({"usage": usage}).encode()
    return Sample(asked_at=0.0, seconds=seconds, first_seconds=None, status=status, body=body)


def outcome(policy: str, p99: float, hits: float = 0.4) -> RoutingResult:
    return RoutingResult(policy=policy, requests=10, p50_seconds=p99 / 2, p99_seconds=p99, hit_rate=hits)


def test_a_policy_is_its_percentiles_and_what_was_cached() -> None:
    found = result_of("adaptive", [sample(0.1, cached=80), sample(0.3), sample(0.2, cached=40)])
    assert (found.requests, found.p50_seconds, found.p99_seconds) == (3, 0.2, 0.3)
    assert found.hit_rate == pytest.approx(0.4)


def test_a_policy_that_loses_requests_has_no_latency() -> None:
    with pytest.raises(CommandFailed, match="1 of 2"):
        result_of("adaptive", [sample(0.1), sample(0.1, status=503)])


def test_goals_are_met_by_what_was_promised_and_missed_by_less() -> None:
    naive = outcome("round-robin", 1.0)
    assert missed_goals(figures_of([naive, outcome("adaptive", 0.7), outcome("affinity", 0.75, 0.6)])) == []
    names = [
        line.partition(":")[0]
        for line in missed_goals(figures_of([naive, outcome("adaptive", 0.8), outcome("affinity", 1.0, 0.41)]))
    ]
    assert names == ["adaptive_p99_gain", "affinity_p99_over_adaptive", "affinity_hits_over_adaptive"]


def test_policies_measured_alone_are_compared_with_nothing() -> None:
    assert [figure for figure in figures_of([outcome("weighted", 1.0)]) if figure.goal is not None] == []


def test_requests_share_instructions_and_ask_their_own_questions() -> None:
    load = RoutingLoad(prompts=3, prompt_characters=50)
    messages = [json.loads(load.body(number))["messages"] for number in range(30)]
    assert len({message[0]["content"] for message in messages}) == 3
    assert len({message[1]["content"] for message in messages}) == 30
    assert load.body(7) == load.body(7)
