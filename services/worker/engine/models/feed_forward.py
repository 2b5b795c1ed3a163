"""The second half of a layer: one gated block for every token, or the chosen few of many experts.

Source for experts: Shazeer et al. 2017; the routing of Mixtral (Jiang et al. 2024): softmax over all, then the top.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from services.worker.engine.checkpoints.layer_config import ExpertsConfig
from services.worker.engine.models.linear import Linear

FeedForward = Callable[[torch.Tensor], torch.Tensor]
"""[T, hidden] -> [T, hidden]."""

Gate = Callable[[torch.Tensor], torch.Tensor]
"""[rows, 2 * inner] -> activation(first half) * second half."""


class DenseFeedForward:
    def __init__(self, gate_up: Linear, down: Linear, gate: Gate) -> None:
        self.gate_up = gate_up
        self.down = down
        self._gate = gate

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down(self._gate(self.gate_up(hidden)))


class ExpertsFeedForward:
    """Tokens are sorted by expert, so that each expert multiplies its tokens once.

    A token's outputs are added in the order of its own choices: what else is in the batch does not change the sum.
    """

    def __init__(self, router: Linear, experts: list[FeedForward], config: ExpertsConfig) -> None:
        self._router = router
        self._experts = experts
        self._config = config

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        shares, chosen = self._choose(hidden)
        num_chosen = chosen.shape[1]
        order = chosen.flatten().argsort(stable=True)
        rows = hidden[order // num_chosen]  # [T * chosen, hidden], by expert
        outputs = torch.empty_like(rows)
        begin = 0
        for expert, count in zip(self._experts, self._count(chosen), strict=True):
            if count:
                outputs[order[begin : begin + count]] = expert(rows[begin : begin + count])
                begin += count
        weighted = outputs.view(-1, num_chosen, hidden.shape[1]).float() * shares[:, :, None]
        return weighted.sum(dim=1).to(hidden.dtype)

    def _choose(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares [T, chosen] float32 and experts [T, chosen] of every token."""
        probabilities = self._router(hidden).float().softmax(dim=-1)
        shares, chosen = probabilities.topk(self._config.num_chosen, dim=-1)
        if self._config.normalise_shares:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return shares, chosen

    def _count(self, chosen: torch.Tensor) -> list[int]:
        counts: list[int] = torch.bincount(chosen.flatten(), minlength=len(self._experts)).tolist()
        return counts
