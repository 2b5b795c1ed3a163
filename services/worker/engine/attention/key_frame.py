"""Keys moved and stretched channel by channel before they become cells, so that four bits have less to tell apart.

Most of what a key's channel holds is the same for every token, and channels differ in how far they range. KIVI (Liu et
al. 2024, section 3) gives each channel a scale over a group of tokens, which needs the newest tokens in full precision
beside the cache. Here a channel's middle and range are constants of the model, so that a cell is a function of its own
token, as before (docs/decisions.md):

    key'   = (key - middle) / stretch
    query' = query * stretch
    query' . key' = query . key - query . middle

The last term is one number for all of a query's tokens, and softmax does not see it: nothing is put back. Where scores
are capped before softmax it would be seen, and there is no frame. Moving keys by their mean for this reason: Zhang et
al. 2024, "SageAttention", 4.2; constants per channel: Hooper et al. 2024, "KVQuant", 3.1; the square root of the range
is shared with the query, as in Xiao et al. 2023, "SmoothQuant", 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_LEAST_SHARE = 1e-3
"""A channel's range counts as so much of its head's mean range at least."""
_EXPONENT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFrame:
    """Of one layer. `numbers` [K, 3, D] float32: of every kv head middles, the inverse of stretches, and stretches."""

    numbers: torch.Tensor

    @classmethod
    def of(cls, keys: torch.Tensor) -> KeyFrame | None:
        """From keys [T, K, D], rotated, of tokens as they come; None where one is not finite."""
        wide = keys.float()
        lowest, highest = wide.amin(dim=0), wide.amax(dim=0)
        ranges = highest - lowest
        if not bool(ranges.isfinite().all()):
            return None
        mean = ranges.mean(dim=-1, keepdim=True)
        shares = torch.where(mean > 0, ranges / mean, torch.ones_like(ranges)).clamp(min=_LEAST_SHARE)
        stretches = shares**_EXPONENT
        middles = lowest + ranges / 2
        return cls(numbers=torch.stack([middles, 1 / stretches, stretches], dim=1).contiguous())

    def keys(self, keys: torch.Tensor) -> torch.Tensor:
        """[T, K, D] -> the same shape and type."""
        return ((keys.float() - self.numbers[:, 0]) * self.numbers[:, 1]).to(keys.dtype)

    def queries(self, queries: torch.Tensor) -> torch.Tensor:
        """[T, H, D] -> the same shape and type; H is a multiple of K."""
        stretches = self.numbers[:, 2].repeat_interleave(queries.shape[1] // len(self.numbers), dim=0)
        return (queries.float() * stretches).to(queries.dtype)
