"""A bulkhead: how much of something each key may have under way at a time, in number and in amount. Pure.

Unlike a rate limit it forgets at once, and unlike a fair share it holds whoever else is there: what floods through
one compartment does not sink the ship. Refuses to know what is counted.

Source: M. Nygard, "Release It!", 2007, section 5.3.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class _Held:
    number: int = 0
    amount: int = 0


class Bulkhead:
    """None: not bounded. Who has nothing under way is let in whatever its amount: it would never be, otherwise."""

    def __init__(self, *, most: int | None = None, most_amount: int | None = None) -> None:
        if (most is not None and most < 1) or (most_amount is not None and most_amount < 1):
            raise ValueError("a bulkhead lets at least one in")
        self._most = most
        self._most_amount = most_amount
        self._held: dict[str, _Held] = {}

    def is_open(self, key: str, amount: int) -> bool:
        held = self._held.get(key)
        if held is None:
            return True
        is_too_many = self._most is not None and held.number >= self._most
        return not is_too_many and (self._most_amount is None or held.amount + amount <= self._most_amount)

    def enter(self, key: str, amount: int) -> None:
        held = self._held.setdefault(key, _Held())
        held.number += 1
        held.amount += amount

    def leave(self, key: str, amount: int) -> None:
        """As much as was entered with."""
        held = self._held[key]
        held.number -= 1
        held.amount -= amount
        assert held.number >= 0
        assert held.amount >= 0
        if not held.number:
            del self._held[key]
