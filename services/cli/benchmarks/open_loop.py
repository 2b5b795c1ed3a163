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
    """One request. Seconds; `asked_at` since the run began. Status 0: the connection was lost, or the caller's
    patience was over (`has_given_up`)."""

    asked_at: float
    seconds: float
    first_seconds: float | None
    status: int
    body: bytes
    has_given_up: bool = False
    retry_after_seconds: float | None = None

    @property
    def is_answered(self) -> bool:
        return self.status == 200 and b'"error":{' not in self.body


class Callers:
    """Opens connections as they are needed and keeps some."""

    def __init__(self, base_url: str, *, patience_seconds: float | None = None, headers: str = "") -> None:
        """`headers`: lines that end in CRLF, sent with every request."""
        self._base_url = base_url
        self._patience_seconds = patience_seconds
        self._headers = headers
        self._idle: list[HttpConnection] = []

    async def ask(self, body: bytes, *, began_at: float) -> Sample:
        """One request, timed from before its connection is looked for."""
        asked_at = time.perf_counter()
        answer, has_given_up, connection = Answer(), False, None
        try:
            async with asyncio.timeout(self._patience_seconds):
                connection = await self._connection()
                answer = await connection.post(body, self._headers)
        except TimeoutError:
            has_given_up = True
        except OSError:
            pass
        if connection is not None and connection.is_usable and answer.status:
            self._give_back(connection)
        elif connection is not None:
            connection.close()  # whoever has lost patience hangs up
        if connection is not None and has_given_up:
            answer.first_content_at = connection.answer.first_content_at
        first_at = answer.first_content_at
        return Sample(
            has_given_up=has_given_up,
            asked_at=asked_at - began_at,
            seconds=time.perf_counter() - asked_at,
            first_seconds=None if first_at is None else first_at - asked_at,
            status=answer.status,
            body=bytes(answer.body),
            retry_after_seconds=answer.retry_after_seconds,
        )

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _connection(self) -> HttpConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        return await HttpConnection.open(self._base_url)

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
    patience_seconds: float | None = None,
    headers: str = "",
) -> list[Sample]:
    """Ask `body(0)`, `body(1)`, ... at exponential distances for so long; returns when all are answered.

    A caller hangs up after `patience_seconds`; None: never.
    """
    arrivals = random.Random(seed)
    callers = Callers(base_url, patience_seconds=patience_seconds, headers=headers)
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
