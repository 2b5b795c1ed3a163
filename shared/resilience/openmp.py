"""How long an OpenMP thread spins at a barrier before it sleeps, for processes that will load torch.

GNU OpenMP's threads spin for some milliseconds. Alone on the machine that saves wake-ups; beside other processes the
spinning thread holds the core that its partner needs, and an engine with two threads on two busy cores falls to a
tenth of its speed. OpenMP reads its environment once, when torch loads, so the parent process sets it.
"""

from collections.abc import Mapping

_SPIN_COUNT = "GOMP_SPINCOUNT"
_WAIT_POLICY = "OMP_WAIT_POLICY"
_SHORT_SPIN = "1000"
"""Some microseconds: longer than the gap between two kernels of a step, far shorter than a scheduler's time slice."""


def with_short_spins(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process; what the user has set about waiting stays."""
    if _SPIN_COUNT in environment or _WAIT_POLICY in environment:
        return dict(environment)
    return {**environment, _SPIN_COUNT: _SHORT_SPIN}
