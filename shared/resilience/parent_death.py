"""A child process that does not outlive its parent, however the parent went. Linux only; elsewhere it does nothing.

The kernel's promise is about the *thread* that started the child: start children from a thread that stays.
"""

import contextlib
import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for `number` when the parent ends. Called in the child: as `preexec_fn`, or first thing in it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
