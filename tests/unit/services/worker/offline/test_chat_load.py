"""Lengths and arrivals of the benchmarks' loads. The seeds are fixed: nothing here can fail by chance."""

import itertools
import statistics

import pytest

from services.worker.offline.chat_load import (
    MEAN_OUTPUT_TOKENS,
    MEAN_PROMPT_TOKENS,
    NUM_SHARED_PROMPTS,
    chat_requests,
    mixed_requests,
)


def test_lengths_have_the_published_means_where_nothing_is_cut_off() -> None:
    requests = chat_requests(20_000, context_tokens=1_000_000, per_second=1, seed=3)
    assert statistics.fmean(r.num_prompt_tokens for r in requests) == pytest.approx(MEAN_PROMPT_TOKENS, rel=0.05)
    assert statistics.fmean(r.num_output_tokens for r in requests) == pytest.approx(MEAN_OUTPUT_TOKENS, rel=0.05)


def test_arrivals_are_poisson() -> None:
    requests = chat_requests(20_000, context_tokens=512, per_second=4, seed=3)
    times = [request.arrival_seconds for request in requests]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(0.25, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.05)
    assert times == sorted(times)


@pytest.mark.parametrize("context", [2, 512, 8192])
def test_every_request_fits_the_context_and_gives_a_token(context: int) -> None:
    chats = chat_requests(500, context_tokens=context, per_second=1, seed=3)
    mixed = [*itertools.islice(mixed_requests(context_tokens=context, seed=3), 500)]
    for request in (*chats, *mixed):
        assert request.num_prompt_tokens >= 1
        assert request.num_output_tokens >= 1
        assert request.num_prompt_tokens + request.num_output_tokens <= context
        assert request.num_shared_tokens <= request.num_prompt_tokens


def test_the_mixed_load_shares_a_few_prompts_and_has_long_ones() -> None:
    requests = [*itertools.islice(mixed_requests(context_tokens=8192, seed=3), 500)]
    assert {request.shared_prompt for request in requests} == set(range(NUM_SHARED_PROMPTS))
    assert {request.num_shared_tokens for request in requests} == {256}
    assert sum(request.num_prompt_tokens > 2048 for request in requests) > 50


def test_a_seed_is_a_load() -> None:
    def load(seed: int) -> object:
        return chat_requests(20, context_tokens=512, per_second=1, seed=seed)

    assert load(1) == load(1)
    assert load(1) != load(2)
