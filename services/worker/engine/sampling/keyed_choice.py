"""A draw from a softmax as a largest value: scores and Gumbel noise, keyed by (seed, position).

Source: Gumbel 1954; Maddison, Tarlow and Minka 2014, "A* Sampling", section 2 (the Gumbel-max trick).
"""

import torch

from services.worker.engine.native.choice_library import load_choose
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.noise import NoiseStream, gumbel


def choose(scores: torch.Tensor, draws: list[Draw], stream: NoiseStream = NoiseStream.TARGET) -> torch.Tensor:
    """scores [R, V] float32, logarithms of weights -> [R] int64. A weight of 0, -inf, is never chosen.

    Which token wins depends on its row's scores, seed and position. Where two drafts of one position have nearly the
    same scores, they nearly always choose the same token: the noise is what decides, and they share it.
    """
    seeds, positions = [draw.sequence.seed for draw in draws], [draw.position for draw in draws]
    native = load_choose() if scores.device.type == "cpu" else None
    if native is not None:
        return native(scores, seeds, positions, stream)
    return gumbel(seeds, positions, scores.shape[1], stream, scores.device).add_(scores).argmax(dim=1)
