"""Callers that do not wait for each other: Poisson arrivals, whatever the answers do. Measures and keeps each of them.

A closed loop slows down with what it measures and so hides overload; this one does not.
Source: B. Schroeder, A. Wierman, M. Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from services.cli.benchmarks.http_connection import Answer, HttpConnection

_IDLE_KEPT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request. Seconds; `asked_at` since the run began. Status 0: the connection was lost."""

    asked_at: float
    seconds: float
    first_seconds: float | None
    status: int
    body: bytes

    @property
    def is_answered(self) -> bool:
        return self.status == 200 and b'"error":{' not in self.body


class Callers:
    """Opens connections as they are needed and keeps some."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._idle: list[HttpConnection] = []

    async def ask(self, body: bytes, *, began_at: float) -> Sample:
        """One request, timed from before its connection is looked for."""
        asked_at = time.perf_counter()
        answer = Answer()
        try:
            connection = self._idle.pop() if self._idle else await HttpConnection.open(self._base_url)
            answer = await connection.post(body)
        except OSError:
            pass
        else:
            self._give_back(connection)
        first_at = answer.first_content_at
        return Sample(
            asked_at=asked_at - began_at,
            seconds=time.perf_counter() - asked_at,
            first_seconds=None if first_at is None else first_at - asked_at,
            status=answer.status,
            body=bytes(answer.body),
        )

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    def _give_back(self, connection: HttpConnection) -> None:
        if len(self._idle) < _IDLE_KEPT:
            self._idle.append(connection)
        else:
            connection.close()


async def open_loop(
    base_url: str,
    body: Callable[[int], bytes],
    *,
    per_second: float,
    seconds: float,
    seed: int = 0,
) -> list[Sample]:
    """Ask `body(0)`, `body(1)`, ... at exponential distances for so long; returns when all are answered."""
    arrivals = random.Random(seed)
    callers = Callers(base_url)
    began_at = time.perf_counter()
    tasks: list[asyncio.Task[Sample]] = []
    due = arrivals.expovariate(per_second)
    async with asyncio.TaskGroup() as group:
        while due < seconds:
            await asyncio.sleep(max(0.0, began_at + due - time.perf_counter()))
            tasks.append(group.create_task(callers.ask(body(len(tasks)), began_at=began_at)))
            due += arrivals.expovariate(per_second)
    callers.close()
    return [task.result() for task in tasks]
