"""The sampler's randomness: counters, not streams. The same (seed, position) gives the same numbers on any machine.

Nothing is remembered between tokens, so the batch around a sequence, a preemption, a failover or a draft cannot change
what it draws. One number for a decision (`uniform`), or one for every token of the vocabulary (`gumbel`): the largest
of logits and Gumbel noise is a draw from their softmax, and two models that share the noise mostly draw the same token.

Sources: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (the SplitMix64 mixer); Salmon et al.
2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (Philox 4x32-10).
"""

from enum import IntEnum

import torch

from services.worker.engine.device_transfer import upload

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 32) - 1
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LANES = 16
"""Tokens whose numbers come from neighbouring counters; a counter gives four, 16 tokens apart."""
_PER_BLOCK = 4 * _LANES
_LARGEST_BELOW_ONE = 1.0 - 2.0**-24


class NoiseStream(IntEnum):
    """Noise that must not depend on each other, at one seed and position."""

    TARGET = 0
    DRAFT = 1
    """Of drafts that are judged by rejection; coupled ones share the target's."""


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """In [0, 1), a multiple of 2**-53."""
    key = _mix((seed + _GOLDEN) & _MASK)
    return (_mix((key + (position + 1) * _GOLDEN) & _MASK) >> 11) * 2.0**-53


def gumbel(
    seeds: list[int], positions: list[int], num_tokens: int, stream: NoiseStream, device: torch.device
) -> torch.Tensor:
    """[R, num_tokens] float32: row r at (seeds[r], positions[r]). Integer arithmetic up to one logarithm of each."""
    num_blocks = -(-num_tokens // _PER_BLOCK)
    keys = upload([[seed & _WORD, seed >> 32 & _WORD] for seed in seeds], device, torch.int64)
    bits = _philox(keys, upload(positions, device, torch.int64), num_blocks * _LANES, stream)  # [R, 4, counters]
    words = bits.view(len(seeds), 4, num_blocks, _LANES).permute(0, 2, 1, 3).reshape(len(seeds), -1)[:, :num_tokens]
    numbers = (words.float() + 0.5).mul_(2.0**-32).clamp_(max=_LARGEST_BELOW_ONE)
    # An exponential from the side on which small ones, the likely winners, keep all their digits.
    return numbers.neg_().log1p_().neg_().log_().neg_()


def _philox(keys: torch.Tensor, positions: torch.Tensor, num_counters: int, stream: NoiseStream) -> torch.Tensor:
    """keys [R, 2] and positions [R], int64 -> [R, 4, counters] int64 below 2**32."""
    zeros = torch.zeros((keys.shape[0], num_counters), dtype=torch.int64, device=keys.device)
    first = torch.arange(num_counters, device=keys.device) + zeros
    second, third, fourth = (positions & _WORD)[:, None] + zeros, zeros + int(stream), zeros
    keys = keys.clone()
    for _ in range(_ROUNDS):
        high, low = _product(_MULTIPLIERS[0], first)
        other_high, other_low = _product(_MULTIPLIERS[1], third)
        first, second = other_high ^ second ^ keys[:, :1], other_low
        third, fourth = high ^ fourth ^ keys[:, 1:], low
        keys[:, 0] = (keys[:, 0] + _KEY_STEPS[0]) & _WORD
        keys[:, 1] = (keys[:, 1] + _KEY_STEPS[1]) & _WORD
    return torch.stack([first, second, third, fourth], dim=1)


def _product(multiplier: int, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The upper and the lower 32 bits; in two parts, since 64 signed bits do not hold all of it."""
    lower = multiplier * (words & 0xFFFF)
    upper = multiplier * (words >> 16) + (lower >> 16)
    return upper >> 16, (upper & 0xFFFF) << 16 | lower & 0xFFFF
