"""Tells apart two submissions of one request to the same engine. Pure; knows no socket.

A worker that was stopped and woke up is fenced and claims again, while the engine has gone on and what it said lies in
the socket. Were the second submission to have the first one's name, those echoes would count as its tokens.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec

from services.worker.engine.events import RequestRejected, RequestTimings, StepResult, Submit

_MOST_REMEMBERED = 10_000
_Report = TypeVar("_Report", RequestTimings, RequestRejected)


class SubmissionNames:
    """Only a request that was given up here gets another name, so that all others cost nothing."""

    def __init__(self) -> None:
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self._names: dict[str, str] = {}
        self._num_given = 0

    def named(self, submit: Submit) -> Submit:
        if submit.request_id not in self._given_up:
            return submit
        self._num_given += 1
        name = f"{submit.request_id}#{self._num_given}"
        self._names[submit.request_id] = name
        return replace(submit, request_id=name)

    def name_of(self, request_id: str) -> str:
        return self._names.get(request_id, request_id)

    def gave_up(self, request_id: str) -> None:
        """The engine was told to stop; it may still have something to say."""
        self._names.pop(request_id, None)
        self._given_up[request_id] = None
        self._given_up.move_to_end(request_id)
        if len(self._given_up) > _MOST_REMEMBERED:
            self._given_up.popitem(last=False)

    def ended(self, request_id: str) -> None:
        """The engine ended it itself."""
        self._names.pop(request_id, None)

    def forget(self) -> None:
        """Another engine: it has no echoes."""
        self._given_up.clear()
        self._names.clear()

    def heard(self, result: StepResult) -> StepResult:
        """With the requests' own ids again, and without what an earlier submission of them said."""
        if not self._names:
            return result
        requests = {name: request_id for request_id, name in self._names.items()}
        tokens = [
            event
            if event.request_id not in requests
            else msgspec.structs.replace(event, request_id=requests[event.request_id])
            for event in result.tokens
            if event.request_id not in self._names
        ]
        return msgspec.structs.replace(
            result,
            tokens=tokens,
            timings=list(self._own(result.timings, requests)),
            rejected=list(self._own(result.rejected, requests)),
        )

    def _own(self, reports: Sequence[_Report], requests: dict[str, str]) -> Iterator[_Report]:
        for report in reports:
            if report.request_id not in self._names:
                yield replace(report, request_id=requests.get(report.request_id, report.request_id))
