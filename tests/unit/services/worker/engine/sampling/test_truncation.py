"""Top-k, top-p and min-p against their plain definitions, row by row."""

import math
from typing import Any

import pytest
import torch

from services.worker.engine.sampling import truncation
from services.worker.engine.sampling.truncation import truncate
from shared.contracts.sampling import SamplingParameters


def plain(logits: list[float], parameters: SamplingParameters) -> set[int]:
    """Which tokens stay, by the book."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if parameters.top_k:
        order = order[: parameters.top_k]
    total = sum(math.exp(logits[token]) for token in order)
    kept, mass = [], 0.0
    for token in order:
        if mass >= parameters.top_p:
            break
        kept.append(token)
        mass += math.exp(logits[token]) / total
    limit = parameters.min_p * math.exp(logits[order[0]])
    return {token for token in kept if math.exp(logits[token]) >= limit}


CASES: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"top_p": 1e-9},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.8},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.1},
]


@pytest.mark.parametrize("num_candidates", [4, 512])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_what_stays_is_what_the_definitions_say(
    num_candidates: int, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truncation, "NUM_CANDIDATES", num_candidates)
    torch.manual_seed(4)
    parameters = [SamplingParameters(**case) for case in CASES]
    logits = torch.randn(len(CASES), 1000) * spread
    kept = truncate(logits.clone(), parameters).isfinite()
    for row, one in enumerate(parameters):
        assert set(kept[row].nonzero().flatten().tolist()) == plain(logits[row].tolist(), one), CASES[row]


def test_tokens_of_equal_value_stay_together() -> None:
    kept = truncate(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), [SamplingParameters(top_k=2)])
    assert kept.isfinite().tolist() == [[True, True, True, False]]


def test_the_best_token_always_stays() -> None:
    kept = truncate(torch.tensor([[0.0, 9.0, 1.0]]), [SamplingParameters(top_p=0.0)])
    assert kept.isfinite().tolist() == [[False, True, False]]
