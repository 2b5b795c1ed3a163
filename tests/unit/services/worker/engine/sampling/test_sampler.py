"""From logits to tokens: greedy, seeded, penalised, truncated, and told with log probabilities."""

import math
from typing import Any

import pytest
import torch

from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.penalties import apply_penalties
from services.worker.engine.sampling.sampler import sample
from tests.engine_driver import make_sequence


def draw(token_ids: list[int], **of_sequence: Any) -> Draw:
    return Draw(make_sequence(token_ids, **of_sequence))


def rows(*parameters: dict[str, Any]) -> list[Draw]:
    return [draw([1, 2, 3], seed=index, **one) for index, one in enumerate(parameters)]


def drawn(logits: torch.Tensor, draws: list[Draw]) -> list[int]:
    return [token.token_id for token in sample(logits.clone(), draws).read()]


def test_temperature_zero_takes_the_best() -> None:
    logits = torch.randn(3, 50)
    assert drawn(logits, rows(*[{"temperature": 0.0}] * 3)) == logits.argmax(dim=1).tolist()


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 997)
    parameters: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.5, "top_p": 0.9},
        {"temperature": 2.0, "top_k": 10},
        {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": 1.2},
        {"temperature": 1.0, "logprobs": 2},
    ]
    together = drawn(logits, rows(*parameters))
    for row in range(6):
        assert drawn(logits[row : row + 1], [rows(*parameters)[row]]) == [together[row]]


def test_another_seed_or_position_draws_other_tokens() -> None:
    logits = torch.zeros(1, 5000)
    tokens = {drawn(logits, [draw([1], seed=seed)])[0] for seed in range(20)}
    tokens |= {drawn(logits, [draw([1] * (n + 1), num_output_tokens=n)])[0] for n in range(20)}
    assert len(tokens) > 35


def test_a_tiny_temperature_is_greedy_and_overflows_nothing() -> None:
    logits = torch.tensor([[1e4, 1e4 - 1.0, -1e4]])
    assert drawn(logits, rows({"temperature": 1e-6})) == [0]


def test_tokens_without_probability_are_never_drawn() -> None:
    logits = torch.full((1, 100), -math.inf)
    logits[0, [10, 90]] = 0.0
    tokens = {drawn(logits, [draw([1], seed=seed)])[0] for seed in range(200)}
    assert tokens == {10, 90}


def test_log_probabilities_are_those_of_the_model_whatever_the_sampler_did() -> None:
    logits = torch.randn(1, 40)
    expected = logits.log_softmax(dim=1)[0]
    (token,) = sample(
        logits.clone(), rows({"temperature": 0.3, "top_k": 3, "repetition_penalty": 2.0, "logprobs": 4})
    ).read()
    assert token.logprob == pytest.approx(float(expected[token.token_id]))
    assert token.top_token_ids == expected.topk(4).indices.tolist()
    assert token.top_logprobs == pytest.approx(expected.topk(4).values.tolist())


def test_log_probabilities_without_alternatives_and_none_at_all() -> None:
    asked, not_asked = sample(torch.randn(2, 40), rows({"logprobs": 0}, {})).read()
    assert asked.logprob is not None
    assert asked.top_token_ids == []
    assert not_asked.logprob is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_make_only_their_row_invalid(value: float) -> None:
    logits = torch.randn(3, 20)
    expected = int(logits[2].argmax())
    logits[1, 7] = value
    tokens = sample(logits, rows({"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.0})).read()
    assert [token.is_valid for token in tokens] == [True, False, True]
    assert tokens[2].token_id == expected


def test_repetition_divides_what_is_likely_and_multiplies_what_is_not() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    apply_penalties(logits, [draw([0, 1, 1], repetition_penalty=2.0)])
    assert logits.tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_frequency_and_presence_count_output_only() -> None:
    logits = torch.zeros(1, 4)
    penalised = draw([0, 1, 2, 2], num_output_tokens=3, frequency_penalty=0.5, presence_penalty=0.25)
    apply_penalties(logits, [penalised])
    assert logits.tolist() == [[0.0, -0.75, -1.25, 0.0]]


def test_end_tokens_are_out_until_the_minimum_length() -> None:
    ending = frozenset({1, 3})
    short = draw([0, 0], num_output_tokens=1, min_tokens=2, ending_token_ids=ending)
    long = draw([0, 0, 0], num_output_tokens=2, min_tokens=2, ending_token_ids=ending)
    logits = torch.zeros(2, 4)
    apply_penalties(logits, [short, long])
    assert logits.isinf().tolist() == [[False, True, False, True], [False] * 4]


def test_bias_is_added_to_its_tokens_in_its_row_only() -> None:
    logits = torch.zeros(3, 6)
    biased = draw([0], logit_bias=((1, 2.5), (4, -100.0)))
    other = draw([0], logit_bias=((0, 1.0),))
    apply_penalties(logits, [biased, draw([0]), other])
    assert logits.tolist() == [[0, 2.5, 0, 0, -100.0, 0], [0.0] * 6, [1.0, 0, 0, 0, 0, 0]]


def test_a_bias_of_a_hundred_decides_and_of_minus_a_hundred_forbids() -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 30)
    best = int(logits.argmax())
    draws = [draw([1], seed=seed, logit_bias=((7, 100.0),)) for seed in range(50)]
    assert set(drawn(logits.repeat(50, 1), draws)) == {7}
    assert drawn(logits, [draw([1], temperature=0.0, logit_bias=((best, -100.0),))]) != [best]
