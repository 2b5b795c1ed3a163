"""Following an output that the caller predicted, past words that were changed, left out or put in. Tokens only."""

from collections import defaultdict

_SIZES = (4, 3, 2)


class FollowedPrediction:
    """One sequence's place in its prediction. A token that is not the predicted one is taken to stand in its place,
    until a run of output is found again further on."""

    def __init__(self, predicted: list[int]) -> None:
        self._predicted = predicted
        self._places: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for end in range(1, len(predicted)):
            for size in _SIZES:
                if size <= end:
                    self._places[tuple(predicted[end - size : end])].append(end)
        self._place = 0
        self._num_seen = 0

    def next_tokens(self, output: list[int], num_tokens: int) -> tuple[int, ...]:
        """`output` is what it was at the last call, and more."""
        for number in range(self._num_seen, len(output)):
            self._place = self._place_behind(output[max(number + 1 - _SIZES[0], 0) : number + 1])
        self._num_seen = len(output)
        return tuple(self._predicted[self._place : self._place + num_tokens])

    def _place_behind(self, output: list[int]) -> int:
        if self._place < len(self._predicted) and self._predicted[self._place] == output[-1]:
            return self._place + 1
        for size in _SIZES:
            places = self._places.get(tuple(output[-size:]), []) if size <= len(output) else []
            if places:
                return next((place for place in places if place > self._place), places[-1])
        return self._place + 1
