"""How many threads OpenMP starts, and how long one spins at a barrier before it sleeps, in processes that load torch.

GNU OpenMP's threads spin for some milliseconds. Alone on the machine that saves wake-ups; beside other processes the
spinning thread holds the core that its partner needs, and an engine with two threads on two busy cores falls to a
tenth of its speed. OpenMP reads its environment once, when torch loads, so the parent process sets it.
"""

from collections.abc import Mapping

from shared.resilience.cores import usable_cores

_NUM_THREADS = "OMP_NUM_THREADS"
_THREAD_VARIABLES = (_NUM_THREADS, "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SPIN_COUNT = "GOMP_SPINCOUNT"
_WAIT_POLICY = "OMP_WAIT_POLICY"
_SHORT_SPIN = "1000"
"""Some microseconds: longer than the gap between two kernels of a step, far shorter than a scheduler's time slice."""


def with_short_spins(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child process; what the user has set about waiting stays."""
    if _SPIN_COUNT in environment or _WAIT_POLICY in environment:
        return dict(environment)
    return {**environment, _SPIN_COUNT: _SHORT_SPIN}


def with_threads(environment: Mapping[str, str], num_threads: int | None) -> dict[str, str]:
    """The environment for a child process that is to have so many threads.

    None: a thread for each processor that it may use, unless the user has said something else. Engines that together
    have more threads than processors collapse, and so does one with more than its container's quota.
    """
    if num_threads is None and _NUM_THREADS in environment:
        return dict(environment)
    return {**environment, **dict.fromkeys(_THREAD_VARIABLES, str(num_threads or usable_cores()))}
