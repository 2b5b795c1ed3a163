"""Perplexity, agreement and divergence, on logits that are known."""

import math

import pytest
import torch

from services.worker.offline.model_accuracy import compared_windows, measure_accuracy, take_reference

V = 5
WINDOWS = torch.randint(0, V, (40, 9), generator=torch.Generator().manual_seed(1))


def uniform(token_ids: list[int]) -> torch.Tensor:
    return torch.zeros(len(token_ids), V)


def leaning(token_ids: list[int]) -> torch.Tensor:
    """Always token 2 with probability one half, the others an eighth each."""
    logits = torch.full((len(token_ids), V), 1 / 8)
    logits[:, 2] = 1 / 2
    return logits.log() + 7  # a constant changes nothing


def prophetic(token_ids: list[int]) -> torch.Tensor:
    return 50.0 * torch.nn.functional.one_hot(torch.tensor([*token_ids[1:], 0]), V).float()


def test_a_model_that_knows_nothing_is_as_perplexed_as_there_are_tokens() -> None:
    accuracy = measure_accuracy(WINDOWS, uniform, take_reference(WINDOWS, uniform))
    assert accuracy.perplexity == pytest.approx(V)
    assert accuracy.num_tokens == 40 * 8


def test_a_model_that_knows_the_text_is_not_perplexed() -> None:
    accuracy = measure_accuracy(WINDOWS, prophetic, take_reference(WINDOWS, uniform))
    assert accuracy.perplexity == pytest.approx(1.0, abs=1e-6)


def test_a_model_agrees_with_itself() -> None:
    accuracy = measure_accuracy(WINDOWS, leaning, take_reference(WINDOWS, leaning))
    assert accuracy.agreement == 1.0
    assert accuracy.divergence == pytest.approx(0.0, abs=1e-3)


def test_divergence_is_that_from_the_reference_to_the_model() -> None:
    accuracy = measure_accuracy(WINDOWS, uniform, take_reference(WINDOWS, leaning))
    expected = 0.5 * math.log(0.5 / 0.2) + 4 * 0.125 * math.log(0.125 / 0.2)
    assert accuracy.divergence == pytest.approx(expected, rel=1e-3)
    assert accuracy.agreement == 0.0  # the uniform model's best token is token 0


def test_at_most_sixteen_windows_are_compared_spread_over_the_text() -> None:
    assert compared_windows(5) == [0, 1, 2, 3, 4]
    assert compared_windows(40) == list(range(0, 40, 3))
    assert len(compared_windows(100)) == 15
    accuracy = measure_accuracy(WINDOWS, uniform, take_reference(WINDOWS, uniform))
    assert accuracy.num_compared_tokens == 14 * 9


def test_progress_is_told_window_by_window() -> None:
    seen: list[tuple[int, int]] = []
    measure_accuracy(WINDOWS[:3], uniform, take_reference(WINDOWS[:3], uniform), lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]
