"""The sampler draws from the distribution it should: chi-square tests, and any filter's draws stay inside it.

Every chi-square limit is the 1 in 10,000 quantile; seeds are fixed, so the tests do not flicker, and a changed
generator has a false alarm in at most one of 1,250 changes (eight tests).
"""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.sampler import sample
from tests.engine_driver import make_sequence

NUM_DRAWS = 20_000
LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, 0.0, -0.5, -1.0, -2.0])
LIMITS = {7: 29.88, 4: 23.51, 2: 18.42, 3: 21.11}
"""1 in 10,000 quantiles of chi-square by degrees of freedom."""


class FixedMask:
    """A grammar that allows the same tokens always."""

    field, problem, is_finished = "response_format", None, False

    def __init__(self, allowed: list[int]) -> None:
        self._mask = bytes([sum(1 << token_id for token_id in allowed)])

    def count_allowed(self, token_ids: Iterable[int]) -> int:
        raise NotImplementedError

    def begin_mask(self, draft: Iterable[int] = ()) -> None: ...

    def mask(self, index: int = 0) -> bytes:
        return self._mask

    def advance(self, token_ids: list[int]) -> None: ...


def counts(**parameters: Any) -> torch.Tensor:
    sequences = [make_sequence([1], seed=seed, **parameters) for seed in range(NUM_DRAWS)]
    tokens = [token.token_id for token in sample(LOGITS.repeat(NUM_DRAWS, 1), [*map(Draw, sequences)]).read()]
    return torch.bincount(torch.tensor(tokens), minlength=len(LOGITS)).double()


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({"temperature": 1.0}, 8),
        ({"temperature": 2.0, "top_k": 5}, 5),
        ({"temperature": 1.0, "top_p": 0.75}, 3),
        ({"temperature": 0.5, "min_p": 0.02}, 3),
    ],
)
def test_draws_follow_the_distribution(parameters: dict[str, Any], kept: int) -> None:
    probabilities = (LOGITS.double() / parameters["temperature"]).softmax(dim=0)
    probabilities[kept:] = 0
    expected = probabilities / probabilities.sum() * NUM_DRAWS
    found = counts(**parameters)
    assert found[kept:].sum() == 0
    statistic = ((found - expected)[:kept] ** 2 / expected[:kept]).sum()
    assert float(statistic) < LIMITS[kept - 1]


def test_biased_draws_follow_the_biased_distribution() -> None:
    bias = torch.tensor([-1.5, 0, 0, 1.0, 0, 0, 2.0, 0])
    found = counts(temperature=1.0, logit_bias=((0, -1.5), (3, 1.0), (6, 2.0)))
    expected = (LOGITS.double() + bias).softmax(dim=0) * NUM_DRAWS
    assert float(((found - expected) ** 2 / expected).sum()) < LIMITS[7]


def test_penalised_draws_follow_the_penalised_distribution() -> None:
    """Token 0 is in the prompt, 1 once and 3 twice in the output, 5 in both."""
    sampling = {"repetition_penalty": 1.5, "frequency_penalty": 0.25, "presence_penalty": -0.5}
    tokens = [0, 5, 1, 3, 3, 5]
    sequences = [make_sequence(tokens, num_output_tokens=4, seed=seed, **sampling) for seed in range(NUM_DRAWS)]
    drawn = [token.token_id for token in sample(LOGITS.repeat(NUM_DRAWS, 1), [*map(Draw, sequences)]).read()]
    repeated = torch.tensor([2.0 / 1.5, 1.0 / 1.5, 0.5, 0.0, 0.0, -0.5 * 1.5, -1.0, -2.0]).double()
    occurrences = torch.tensor([0, 1, 0, 2, 0, 1, 0, 0])
    expected = (repeated - 0.25 * occurrences + 0.5 * (occurrences > 0)).softmax(dim=0) * NUM_DRAWS
    found = torch.bincount(torch.tensor(drawn), minlength=len(LOGITS)).double()
    assert float(((found - expected) ** 2 / expected).sum()) < LIMITS[7]


def test_draws_under_a_grammar_follow_the_models_distribution_over_what_is_allowed() -> None:
    allowed = [0, 2, 5, 6, 7]
    sequences = [make_sequence([1], seed=seed, temperature=1.0) for seed in range(NUM_DRAWS)]
    for sequence in sequences:
        sequence.constraint = FixedMask(allowed)
    tokens = [token.token_id for token in sample(LOGITS.repeat(NUM_DRAWS, 1), [*map(Draw, sequences)]).read()]
    found = torch.bincount(torch.tensor(tokens), minlength=len(LOGITS)).double()
    expected = LOGITS.double()[allowed].softmax(dim=0) * NUM_DRAWS
    assert found.sum() == found[allowed].sum()
    assert float(((found[allowed] - expected) ** 2 / expected).sum()) < LIMITS[4]


def test_successive_positions_of_one_seed_are_independent_draws() -> None:
    """Pairs of neighbouring draws over two equally likely tokens; 21.11 is the 1 in 10,000 limit at 3 degrees."""
    sequences = [make_sequence([1] * (n + 1), num_output_tokens=n, seed=5) for n in range(4001)]
    tokens = [token.token_id for token in sample(torch.zeros(4001, 2), [*map(Draw, sequences)]).read()]
    pairs = [2 * first + second for first, second in zip(tokens[:-1:2], tokens[1::2], strict=True)]
    expected = len(pairs) / 4
    statistic = sum((pairs.count(pair) - expected) ** 2 / expected for pair in range(4))
    assert statistic < LIMITS[3]


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=40),
    temperature=st.floats(0.01, 5),
    top_k=st.integers(0, 50),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**63),
)
def test_any_parameters_draw_a_token_at_least_as_likely_as_the_filters_demand(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    sequence = make_sequence([0], seed=seed, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    (token,) = sample(torch.tensor([logits]), [Draw(sequence)]).read()
    assert token.is_valid
    if top_k:
        assert logits[token.token_id] >= sorted(logits, reverse=True)[:top_k][-1]
    ratio = (torch.tensor(logits[token.token_id]) - max(logits)) / temperature
    assert float(ratio.exp()) >= min_p * 0.999
