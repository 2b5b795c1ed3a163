"""A draw from a softmax as a largest value: scores and Gumbel noise, keyed by (seed, position).

Source: Gumbel 1954; Maddison, Tarlow and Minka 2014, "A* Sampling", section 2 (the Gumbel-max trick).
"""

import torch

from services.worker.engine.native.choice_library import load_choose
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.noise import NoiseStream, gumbel


def choose(
    scores: torch.Tensor,
    draws: list[Draw],
    stream: NoiseStream = NoiseStream.TARGET,
    *,
    temperatures: torch.Tensor | None = None,
) -> torch.Tensor:
    """scores [R, V] float32, logarithms of weights -> [R] int64. A weight of 0, -inf, is never chosen.

    With `temperatures` [R] float32 they are logits, of which `at_temperatures` makes scores; here in the same pass.

    Which token wins depends on its row's scores, seed and position. Where two drafts of one position have nearly the
    same scores, they nearly always choose the same token: the noise is what decides, and they share it.
    """
    seeds, positions = [draw.sequence.seed for draw in draws], [draw.position for draw in draws]
    native = load_choose() if scores.device.type == "cpu" else None
    if native is not None:
        return native(scores, seeds, positions, stream, temperatures)
    if temperatures is not None:
        scores = at_temperatures(scores, temperatures)
    return gumbel(seeds, positions, scores.shape[1], stream, scores.device).add_(scores).argmax(dim=1)


def at_temperatures(logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
    """[R, V] and [R] -> [R, V]. Shifted to a maximum of 0 first: a tiny temperature must not overflow."""
    return (logits - logits.amax(dim=1, keepdim=True)) / temperatures[:, None]
