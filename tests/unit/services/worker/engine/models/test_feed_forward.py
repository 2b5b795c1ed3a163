"""Experts: each token goes to its own, with its own shares, whatever else is in the batch."""

import pytest
import torch

from services.worker.engine.checkpoints.layer_config import ExpertsConfig
from services.worker.engine.checkpoints.model_families import ExpertNames
from services.worker.engine.models.feed_forward import DenseFeedForward, ExpertsFeedForward, FeedForward
from services.worker.engine.models.linear import PlainLinear

HIDDEN, NUM_EXPERTS = 6, 5


def times(factor: float) -> FeedForward:
    return lambda hidden: hidden * factor


def layer(num_chosen: int, *, normalise: bool = True, router: torch.Tensor | None = None) -> ExpertsFeedForward:
    config = ExpertsConfig(
        num_experts=NUM_EXPERTS,
        num_chosen=num_chosen,
        intermediate_size=1,
        normalise_shares=normalise,
        names=ExpertNames(),
    )
    torch.manual_seed(4)
    weight = torch.randn(NUM_EXPERTS, HIDDEN) if router is None else router
    return ExpertsFeedForward(PlainLinear(weight, None), [times(10.0**e) for e in range(NUM_EXPERTS)], config)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("num_chosen", [1, 2, NUM_EXPERTS])
def test_a_token_is_the_shared_sum_of_its_chosen_experts(num_chosen: int, normalise: bool) -> None:
    torch.manual_seed(4)
    router = torch.randn(NUM_EXPERTS, HIDDEN)
    hidden = torch.randn(20, HIDDEN)
    found = layer(num_chosen, normalise=normalise, router=router)(hidden)
    for token, output in zip(hidden, found, strict=True):
        shares, chosen = (router @ token).softmax(0).topk(num_chosen)
        if normalise:
            shares = shares / shares.sum()
        factor = sum(float(share) * 10.0 ** int(expert) for share, expert in zip(shares, chosen, strict=True))
        torch.testing.assert_close(output, token * factor, rtol=1e-5, atol=1e-5)


def test_a_token_alone_is_the_token_in_a_crowd() -> None:
    crowd = torch.randn(64, HIDDEN)
    experts = layer(3)
    together = experts(crowd)
    for index in (0, 13, 63):
        torch.testing.assert_close(experts(crowd[index : index + 1])[0], together[index], rtol=1e-5, atol=1e-5)


def test_an_expert_whom_nobody_chose_is_not_asked() -> None:
    router = torch.zeros(NUM_EXPERTS, HIDDEN)
    router[2] = 100.0
    asked: list[int] = []

    def expert(index: int) -> FeedForward:
        def compute(hidden: torch.Tensor) -> torch.Tensor:
            asked.append(index)
            return hidden

        return compute

    config = ExpertsConfig(
        num_experts=NUM_EXPERTS, num_chosen=1, intermediate_size=1, normalise_shares=True, names=ExpertNames()
    )
    experts = ExpertsFeedForward(PlainLinear(router, None), [expert(e) for e in range(NUM_EXPERTS)], config)
    hidden = torch.rand(7, HIDDEN) + 1
    assert torch.equal(experts(hidden), hidden)
    assert asked == [2]


def test_a_token_that_is_not_a_number_spoils_only_itself() -> None:
    hidden = torch.randn(9, HIDDEN)
    experts = layer(2)
    clean = experts(hidden.clone())
    hidden[4] = torch.nan
    found = experts(hidden)
    assert found[4].isnan().all()
    others = [index for index in range(9) if index != 4]
    assert torch.equal(found[others], clean[others])


def test_a_dense_block_gates_one_half_with_the_other() -> None:
    gate_up, down = torch.randn(8, HIDDEN), torch.randn(HIDDEN, 4)

    def gate(both: torch.Tensor) -> torch.Tensor:
        first, second = both.chunk(2, dim=-1)
        return first.relu() * second

    hidden = torch.randn(3, HIDDEN)
    found = DenseFeedForward(PlainLinear(gate_up, None), PlainLinear(down, None), gate)(hidden)
    expected = ((hidden @ gate_up[:4].T).relu() * (hidden @ gate_up[4:].T)) @ down.T
    torch.testing.assert_close(found, expected)
