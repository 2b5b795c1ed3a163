"""The rejection verifier's arithmetic, by enumeration: whatever the draft's distribution is, the target's comes out."""

import itertools

import pytest
import torch

from services.worker.engine.sampling.residual import acceptance, rest

STEPS = 4
"""Every distribution over three tokens whose probabilities are multiples of a quarter."""
GRID = [
    torch.tensor([a, b, STEPS - a - b], dtype=torch.float64) / STEPS
    for a in range(STEPS + 1)
    for b in range(STEPS + 1 - a)
]


@pytest.mark.parametrize(("target", "draft"), list(itertools.product(GRID, GRID)))
def test_over_all_candidates_the_output_is_distributed_as_the_target(target: torch.Tensor, draft: torch.Tensor) -> None:
    drawn = [token for token in range(3) if draft[token] > 0]
    p, q = target.repeat(len(drawn), 1), draft.repeat(len(drawn), 1)
    stands = acceptance(p, q, torch.tensor(drawn)[:, None])
    left = rest(p, q)
    replaced = left / left.sum(dim=1, keepdim=True)
    output = torch.zeros(3, dtype=torch.float64)
    for row, token in enumerate(drawn):
        output[token] += draft[token] * stands[row]
        output += draft[token] * (1 - stands[row]) * replaced[row]
    assert torch.allclose(output, target, atol=1e-12)


def test_as_many_stand_as_can_stand() -> None:
    """The sum of min(p, q): no verifier that keeps the target's distribution accepts more."""
    target, draft = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.2, 0.6]])
    stands = acceptance(target.repeat(3, 1), draft.repeat(3, 1), torch.tensor([[0], [1], [2]]))
    assert float((draft[0] * stands).sum()) == pytest.approx(0.2 + 0.2 + 0.2)
