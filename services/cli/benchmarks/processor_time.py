"""Processor time of this process and its descendants, by what each of them is. Knows names, starts nothing.

On a machine that other work shares, wall-clock figures swing with the neighbours; user plus system time per request
hardly does. That is the figure to compare two commits by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import psutil

_MARKS = (
    ("services.worker.engine_process", "engine"),
    ("services.worker", "worker"),
    ("services.gateway", "gateway"),
    ("services.supervisor", "supervisor"),
    ("kafka.Kafka", "kafka"),
    ("redis-server", "redis"),
    ("valkey-server", "redis"),
)
LOAD_GENERATOR = "load"
OTHER = "other"


def service_named(command_line: str) -> str:
    """What the process with this command line is to us; the first mark wins, so that an engine is no worker."""
    return next((name for mark, name in _MARKS if mark in command_line), OTHER)


class ProcessorClock:
    """Reads seconds used since the processes began; two readings around a phase are what the phase cost."""

    def __init__(self) -> None:
        self._self = psutil.Process()

    def read(self) -> dict[str, float]:
        seconds: defaultdict[str, float] = defaultdict(float)
        own = self._self.cpu_times()
        seconds[LOAD_GENERATOR] = own.user + own.system
        for child in self._self.children(recursive=True):
            try:
                used, command_line = child.cpu_times(), " ".join(child.cmdline())
            except psutil.Error:  # it ended meanwhile
                continue
            seconds[service_named(command_line)] += used.user + used.system
        return seconds


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Seconds per service between two readings, dearest first; a process that was replaced counts from its start."""
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    return {name: seconds for name, seconds in sorted(used.items(), key=lambda item: -item[1]) if seconds > 0}
