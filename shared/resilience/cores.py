"""How many processors this process may use: a container's share of a large machine is less than the machine has.

Knows the scheduler's affinity and the control group's quota, no threads. Libraries that count processors see the whole
machine, start a thread for each, and the quota then stops all of them in the middle of a step.
"""

import math
import os
from pathlib import Path

_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def usable_cores(control_groups: Path = _CONTROL_GROUPS) -> int:
    """At least one; a part of a processor counts as one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(control_groups)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(control_groups: Path) -> float | None:
    """Processors' worth of time, as version 2 of control groups says it, or version 1."""
    numbers = _numbers(control_groups / "cpu.max")
    if numbers is None:
        quota, period = (_numbers(control_groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        numbers = None if quota is None or period is None else [*quota, *period]
    if numbers is None or len(numbers) != 2 or min(numbers) <= 0:
        return None
    return numbers[0] / numbers[1]


def _numbers(file: Path) -> list[int] | None:
    """None where there is no such file, or it says `max`."""
    try:
        return [int(word) for word in file.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return None
