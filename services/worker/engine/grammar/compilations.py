"""Requests that wait until their grammar is compiled: the engine goes on stepping meanwhile.

Knows requests and futures, no scheduler. A compilation that misses its deadline is not waited for any longer; its
thread ends by llguidance's limits.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

from services.worker.engine.events import RequestRejected
from services.worker.engine.grammar.compiler import GrammarCompiler, GrammarRefused
from services.worker.engine.grammar.matcher import GrammarMatcher
from services.worker.engine.sequence import RequestProgress
from shared.contracts.errors import InvalidRequest
from shared.contracts.grammar import Grammar

COMPILE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compilation:
    request: RequestProgress
    grammar: Grammar
    future: Future[GrammarMatcher]
    due_at: float


class Compilations:
    """One thread's; the work is done on the compiler's."""

    def __init__(self, compiler: GrammarCompiler, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._compiler = compiler
        self._monotonic = monotonic
        self._running: dict[str, _Compilation] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._running

    @property
    def num_choices(self) -> int:
        return sum(len(one.request.sequences) for one in self._running.values())

    @property
    def is_empty(self) -> bool:
        return not self._running

    def begin(self, request: RequestProgress, grammar: Grammar, eos_token_ids: Sequence[int]) -> None:
        future = self._compiler.threads.submit(self._compiler.compile, grammar, eos_token_ids)
        due_at = self._monotonic() + COMPILE_SECONDS
        self._running[request.request_id] = _Compilation(request=request, grammar=grammar, future=future, due_at=due_at)

    def discard(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def wait(self, seconds: float) -> None:
        """Until one is ready, or this long."""
        wait([one.future for one in self._running.values()], timeout=seconds, return_when="FIRST_COMPLETED")

    def take_finished(self) -> list[tuple[RequestProgress, RequestRejected | None]]:
        """Requests whose sequences now have their matchers, advanced over their output; or why they never will."""
        now = self._monotonic()
        finished = [one for one in self._running.values() if one.future.done() or now >= one.due_at]
        for one in finished:
            del self._running[one.request.request_id]
        return [(one.request, _rejection(one, _attach(one))) for one in finished]


def _rejection(one: _Compilation, problem: str | None) -> RequestRejected | None:
    return None if problem is None else grammar_rejection(one.request.request_id, one.grammar.field, problem)


def grammar_rejection(request_id: str, field: str, problem: str) -> RequestRejected:
    message = f"{field}: no output can be held to it: {problem}"
    return RequestRejected(request_id=request_id, code=InvalidRequest.code, message=message, param=field)


def _attach(one: _Compilation) -> str | None:
    if not one.future.done():
        return f"it takes more than {COMPILE_SECONDS:.0f} s to compile"
    try:
        compiled = one.future.result()
    except GrammarRefused as refusal:
        return str(refusal)
    for sequence in one.request.sequences.values():
        sequence.constraint = compiled.copy()
        sequence.constraint.advance(sequence.output_token_ids)
        if sequence.constraint.problem is not None:
            return sequence.constraint.problem
    return None
