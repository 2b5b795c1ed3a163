"""Finds stop strings in a text that comes in pieces, holding back no more than what may still become one."""

from collections.abc import Sequence


class StopStrings:
    """The stop string that is complete first wins; of several that end at one place, the longest.

    So the cut depends on the text alone, not on how it was cut into pieces.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        assert all(stop), "an empty stop string would match everywhere"
        self._stop = tuple(dict.fromkeys(stop))
        self._held = ""
        self.matched: str | None = None

    def push(self, piece: str) -> str:
        """The text that is certain now. Not to be called after a match."""
        text = self._held + piece
        if (start := self._find(text)) is None:
            start = self._first_possible_start(text)
            self._held = text[start:]
        else:
            self._held = ""
        return text[:start]

    def flush(self) -> str:
        """The text is over: what was held back is no stop string after all."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> int | None:
        best: tuple[int, int] | None = None
        for stop in self._stop:
            start = text.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best):
                best = (start + len(stop), start)
                self.matched = stop
        return None if best is None else best[1]

    def _first_possible_start(self, text: str) -> int:
        """Where the earliest suffix begins that is the beginning of a stop string; the end if there is none."""
        earliest = len(text)
        for stop in self._stop:
            start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while 0 <= start < earliest:
                if stop.startswith(text[start:]):
                    earliest = start
                    break
                start = text.find(stop[0], start + 1)
        return earliest
