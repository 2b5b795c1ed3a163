"""How a service starts its loops, learns that it should stop, and outlives errors in what it repeats.

Refuses to know what the loops do. There is no bare `create_task` here: callers run these coroutines in a TaskGroup,
so a bug ends the service loudly, while an expected failure of one round is logged and the next round tries again.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from shared.contracts.errors import TransientError
from shared.resilience.backoff import Backoff
from shared.resilience.clock import Clock

logger = structlog.get_logger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@asynccontextmanager
async def stop_signal(*signals: signal.Signals) -> AsyncIterator[asyncio.Event]:
    """An event that is set by SIGTERM or SIGINT: stop taking work, finish what is there, leave.

    The second signal gets its default effect back: an operator who asks twice means now.
    """
    loop = asyncio.get_running_loop()
    watched = signals or STOP_SIGNALS
    stopping = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        logger.info("stopping", signal=number.name)
        stopping.set()
        _forget(loop, watched)

    for number in watched:
        loop.add_signal_handler(number, stop, number)
    try:
        yield stopping
    finally:
        _forget(loop, watched)


def _forget(loop: asyncio.AbstractEventLoop, watched: tuple[signal.Signals, ...]) -> None:
    for number in watched:
        loop.remove_signal_handler(number)


class _Failures:
    """Consecutive failures of a loop, logged at the 1st, 2nd, 4th, 8th ..., and once when it works again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0

    def failed(self, error: Exception) -> None:
        self._count += 1
        if self._count & (self._count - 1) == 0:
            logger.warning(
                "failed, will be tried again",
                loop=self._name,
                failures=self._count,
                error=f"{type(error).__name__}: {error}",
                # What is away says so in one line; anything else may be a bug and shows where.
                exc_info=None if isinstance(error, TransientError) else error,
            )

    def worked(self) -> None:
        if self._count:
            logger.info("works again", loop=self._name, failures=self._count)
        self._count = 0


async def run_periodically(
    name: str, interval_seconds: float, action: Callable[[], Awaitable[None]], *, clock: Clock
) -> None:
    """Call `action` now and every interval until cancelled. A round that takes longer delays the next one.

    Errors of a round are survived: a heartbeat that dies with the first Redis time-out would be the outage.
    """
    failures = _Failures(name)
    while True:
        started = clock.monotonic()
        try:
            await action()
        except Exception as error:  # noqa: BLE001  (the loop must outlive every failure of its action)
            failures.failed(error)
        else:
            failures.worked()
        await clock.sleep(max(0.0, interval_seconds - (clock.monotonic() - started)))


async def run_persistently(
    name: str,
    action: Callable[[], Awaitable[None]],
    *,
    clock: Clock,
    backoff: Backoff | None = None,
    healthy_after_seconds: float = 10.0,
) -> None:
    """Keep a long-running `action` running: when it fails, wait and start it again. Ends when it ends by itself.

    The delays start over after a run that lasted `healthy_after_seconds`.
    """
    delays = backoff or Backoff()
    failures = _Failures(name)
    while True:
        started = clock.monotonic()
        try:
            return await action()
        except Exception as error:  # noqa: BLE001  (the same reason)
            if clock.monotonic() - started >= healthy_after_seconds:
                delays.reset()
                failures.worked()
            failures.failed(error)
        await clock.sleep(delays.next_seconds())
