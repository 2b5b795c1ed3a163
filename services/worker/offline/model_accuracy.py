"""How far a quantized model is from the one it was made of: perplexity, agreement and divergence on a held-back text.

Logits come from the engine's own decoder, as it serves: what is measured is what is answered with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

ComputeLogits = Callable[[list[int]], torch.Tensor]
"""One window's token ids -> [T, V] float32."""

_NUM_COMPARED = 16
_ROWS_AT_ONCE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """`divergence`: mean KL(reference || model) in nats. `agreement`: share of positions with the same best token.

    Both are taken over `num_compared_tokens`, evenly spread over the text; perplexity over `num_tokens`.
    """

    perplexity: float
    agreement: float
    divergence: float
    num_tokens: int
    num_compared_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceWindow:
    """`log_probabilities` [T, V] in 16 bits, `best` [T]: two good tokens may be equal in 16 bits."""

    log_probabilities: torch.Tensor
    best: torch.Tensor


Reference = dict[int, ReferenceWindow]
"""The windows that are compared, by their number."""


def compared_windows(num_windows: int) -> list[int]:
    """At most sixteen, evenly spread."""
    return list(range(0, num_windows, -(-num_windows // _NUM_COMPARED)))


@torch.inference_mode()
def take_reference(windows: torch.Tensor, compute: ComputeLogits) -> Reference:
    """windows [W, T] token ids."""
    reference = {}
    for number in compared_windows(len(windows)):
        logits = compute(windows[number].tolist())
        reference[number] = ReferenceWindow(
            log_probabilities=logits.log_softmax(dim=-1).to(torch.float16), best=logits.argmax(dim=-1)
        )
    return reference


@torch.inference_mode()
def measure_accuracy(
    windows: torch.Tensor,
    compute: ComputeLogits,
    reference: Reference,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Every window is a text of its own: its first token is given, the others are foretold."""
    surprise, divergence, agreeing, num_compared = 0.0, 0.0, 0, 0
    for number, window in enumerate(windows):
        logits = compute(window.tolist())
        surprise += _surprise(logits[:-1], window[1:])
        expected = reference.get(number)
        if expected is not None:
            gap, same = _compare(logits, expected)
            divergence, agreeing, num_compared = divergence + gap, agreeing + same, num_compared + len(window)
        if progress is not None:
            progress(number + 1, len(windows))
    num_tokens = windows.shape[0] * (windows.shape[1] - 1)
    return Accuracy(
        perplexity=math.exp(surprise / num_tokens),
        agreement=agreeing / num_compared,
        divergence=divergence / num_compared,
        num_tokens=num_tokens,
        num_compared_tokens=num_compared,
    )


def _surprise(logits: torch.Tensor, token_ids: torch.Tensor) -> float:
    """-log p of the tokens that came, summed."""
    chosen = logits.gather(1, token_ids[:, None])[:, 0]
    return float((logits.logsumexp(dim=-1) - chosen).double().sum())


def _compare(logits: torch.Tensor, expected: ReferenceWindow) -> tuple[float, int]:
    """KL summed over positions, and how many have the same best token."""
    divergence = 0.0
    for begin in range(0, len(logits), _ROWS_AT_ONCE):
        ours = logits[begin : begin + _ROWS_AT_ONCE].log_softmax(dim=-1)
        # Normalised again: rounding to 16 bits moved the sum of the probabilities.
        theirs = expected.log_probabilities[begin : begin + _ROWS_AT_ONCE].float().log_softmax(dim=-1)
        divergence += float((theirs.exp() * (theirs - ours)).double().sum())
    return divergence, int((logits.argmax(dim=-1) == expected.best).sum())
