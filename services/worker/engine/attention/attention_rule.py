"""What a layer's attention computes beyond queries, keys and values: its scale, how far it sees, its soft cap."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRule:
    """Scores are scale * query . key, then `soft_cap` * tanh(score / `soft_cap`) where there is one (Gemma 2).

    `window`: a token sees this many, itself included; None is all before it.
    """

    scale: float
    window: int | None = None
    soft_cap: float | None = None

    def first_visible(self, position: int) -> int:
        """The first position that the token at `position` sees."""
        return 0 if self.window is None else max(0, position - self.window + 1)
