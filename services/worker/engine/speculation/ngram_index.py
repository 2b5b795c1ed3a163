"""Where runs of tokens occurred before, newest first. Knows tokens only."""

from collections.abc import Sequence
from typing import NamedTuple


class Match(NamedTuple):
    """`place`: behind an earlier occurrence of the `length` tokens that the text ends with."""

    place: int
    length: int


class NgramIndex:
    """Of one growing text: for every run of `sizes` tokens what followed its latest occurrence."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sorted(sizes, reverse=True)
        self._places: dict[tuple[int, ...], int] = {}
        self._num_indexed = 0

    def extend(self, text: Sequence[int]) -> None:
        """`text` is what it was, and more. Its last run is not known yet: nothing follows it."""
        for end in range(max(self._num_indexed, 1), len(text)):
            for size in self._sizes:
                if size <= end:
                    self._places[tuple(text[end - size : end])] = end
        self._num_indexed = max(self._num_indexed, len(text))

    def find(self, text: Sequence[int]) -> Match | None:
        """The latest occurrence of the longest run that `text` ends with."""
        for size in self._sizes:
            if size <= len(text):
                place = self._places.get(tuple(text[len(text) - size :]))
                if place is not None:
                    return Match(place, size)
        return None


def continue_from(text: Sequence[int], place: int, num_tokens: int) -> tuple[int, ...]:
    """`text` from `place` on; where it ends it goes on with what was just copied: a loop stays a loop."""
    copied = list(text[place : place + num_tokens])
    period = len(text) - place
    while len(copied) < num_tokens and period > 0:
        copied.append(copied[len(copied) - period])
    return tuple(copied)
