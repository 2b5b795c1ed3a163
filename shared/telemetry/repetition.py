"""A library that says the same thing hundreds of times a second, as Kafka's client does while its broker is away.

Lines with the same words before their values are put in are one saying. Of each, one line in ten seconds is written,
and the next one says how many were left out. Our own lines do not pass here: they are said as often as they happen.
"""

import logging
import time
from collections.abc import Callable

_EVERY_SECONDS = 10.0
_REMEMBERED = 1_000
_SEVERE = logging.CRITICAL


class LessOften(logging.Filter):
    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}
        """Logger, level and words -> when they were last written, and how often not since."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= _SEVERE:
            return True
        saying, now = (record.name, record.levelno, str(record.msg)), self._monotonic()
        written_at, num_left_out = self._said.get(saying, (-_EVERY_SECONDS, 0))
        if now - written_at < _EVERY_SECONDS:
            self._said[saying] = (written_at, num_left_out + 1)
            return False
        self._said.pop(saying, None)
        if len(self._said) >= _REMEMBERED:
            del self._said[next(iter(self._said))]
        self._said[saying] = (now, 0)
        if num_left_out:
            words = record.getMessage()
            record.msg = f"{words} ({num_left_out} more like it in {now - written_at:.0f} s)"
            record.args = ()
        return True
