"""Requests wait for their grammars, not for ever."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.worker.engine.grammar.compilations import COMPILE_SECONDS, Compilations
from services.worker.engine.grammar.compiler import GrammarRefused
from shared.contracts.grammar import Grammar, GrammarKind
from tests.engine_driver import make_sequence

GRAMMAR = Grammar(kind=GrammarKind.REGEX, text="x", field="response_format")


class Matcher:
    """A grammar of exactly the tokens 1, 2, 3."""

    field = "response_format"

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.problem: str | None = None
        self.is_finished = False

    def copy(self) -> "Matcher":
        return Matcher()

    def count_allowed(self, token_ids: Iterable[int]) -> int:
        raise NotImplementedError

    def begin_mask(self, draft: Iterable[int] = ()) -> None: ...

    def mask(self, index: int = 0) -> None: ...

    def advance(self, token_ids: list[int]) -> None:
        self.seen += token_ids
        self.is_finished = self.seen == [1, 2, 3]
        self.problem = None if self.seen == [1, 2, 3][: len(self.seen)] else "not a word"


class Compiler:
    def __init__(self, refusal: str | None = None) -> None:
        self.threads = ThreadPoolExecutor(1)
        self.gate = threading.Event()
        self._refusal = refusal

    def compile(self, grammar: Grammar, eos_token_ids: Any) -> Matcher:
        self.gate.wait(5)
        if self._refusal is not None:
            raise GrammarRefused(self._refusal)
        return Matcher()


def begun(compiler: Compiler, *, output: tuple[int, ...] = ()) -> tuple[Compilations, list[float]]:
    now = [0.0]
    compilations = Compilations(compiler, monotonic=lambda: now[0])  # type: ignore[arg-type]
    sequence = make_sequence([9, 9, *output], num_output_tokens=len(output))
    compilations.begin(sequence.request, GRAMMAR, [2])
    return compilations, now


def finished(compilations: Compilations) -> Any:
    compilations.wait(5)
    ((request, rejection),) = compilations.take_finished()
    assert compilations.is_empty
    return request, rejection


def test_a_request_is_not_ready_before_its_grammar_is() -> None:
    compiler = Compiler()
    compilations, _ = begun(compiler)
    assert compilations.take_finished() == []
    assert compilations.num_choices == 1
    assert "request" in compilations
    compiler.gate.set()
    request, rejection = finished(compilations)
    assert rejection is None
    assert request.sequences[0].constraint.seen == []


def test_a_resumed_choice_has_its_output_behind_it() -> None:
    compiler = Compiler()
    compiler.gate.set()
    request, rejection = finished(begun(compiler, output=(1, 2))[0])
    assert rejection is None
    assert request.sequences[0].constraint.seen == [1, 2]


def test_an_output_that_the_grammar_does_not_allow_is_refused_by_the_fields_name() -> None:
    compiler = Compiler()
    compiler.gate.set()
    _, rejection = finished(begun(compiler, output=(1, 3))[0])
    assert (rejection.code, rejection.param) == ("invalid_request", "response_format")
    assert "not a word" in rejection.message


def test_a_refused_grammar_refuses_its_request_with_the_reason() -> None:
    compiler = Compiler(refusal="much too large")
    compiler.gate.set()
    _, rejection = finished(begun(compiler)[0])
    assert rejection.message.startswith("response_format: ")
    assert "much too large" in rejection.message


def test_past_its_deadline_nobody_waits_for_a_compilation() -> None:
    compiler = Compiler()
    compilations, now = begun(compiler)
    now[0] = COMPILE_SECONDS - 0.1
    assert compilations.take_finished() == []
    now[0] = COMPILE_SECONDS
    ((_, rejection),) = compilations.take_finished()
    assert rejection is not None
    assert "10 s to compile" in rejection.message
    compiler.gate.set()


def test_what_is_cancelled_meanwhile_is_forgotten() -> None:
    compiler = Compiler()
    compilations, _ = begun(compiler)
    compilations.discard("request")
    compilations.discard("request")
    assert compilations.is_empty
    compiler.gate.set()


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_waiting_ends_though_nothing_is_ready(seconds: float) -> None:
    compiler = Compiler()
    compilations, _ = begun(compiler)
    compilations.wait(seconds)
    assert compilations.take_finished() == []
    compiler.gate.set()
