"""A matcher never raises: what is wrong with it is its problem."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.worker.engine.grammar import matcher as module
from services.worker.engine.grammar.compiler import GrammarCompiler
from services.worker.engine.grammar.matcher import GrammarMatcher
from shared.contracts.grammar import Grammar, GrammarKind
from shared.tokenization.tokenizer import Tokenizer
from tests.builders import write_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_tokenizer(directory)
    return directory


@pytest.fixture
def matcher(model: Path) -> GrammarMatcher:
    return GrammarCompiler(model, vocabulary_size=512).compile(Grammar(kind=GrammarKind.REGEX, text="[ab]{3}"), [2])


def test_a_token_that_is_not_allowed_is_a_problem_in_one_line(matcher: GrammarMatcher, model: Path) -> None:
    matcher.advance(Tokenizer.from_directory(model).encode("c"))
    assert matcher.problem is not None
    assert "\n" not in matcher.problem
    assert matcher.mask() is None


def test_a_copy_goes_its_own_way(matcher: GrammarMatcher, model: Path) -> None:
    tokens = Tokenizer.from_directory(model).encode("a")
    matcher.advance(tokens)
    copy = matcher.copy()
    copy.advance([*tokens, *tokens])
    assert copy.is_finished
    assert not matcher.is_finished


def test_advancing_over_several_tokens_is_the_same_as_one_by_one(matcher: GrammarMatcher, model: Path) -> None:
    tokens = Tokenizer.from_directory(model).encode("ab")
    other = matcher.copy()
    matcher.advance(tokens)
    for token in tokens:
        other.advance([token])
    assert matcher.mask() == other.mask()


def test_nothing_to_advance_over_changes_nothing(matcher: GrammarMatcher) -> None:
    before = matcher.copy().mask()
    matcher.advance([])
    assert matcher.mask() == before


def test_a_mask_is_computed_once_however_often_it_is_begun(matcher: GrammarMatcher) -> None:
    matcher.begin_mask()
    matcher.begin_mask()
    assert matcher.mask() == matcher.copy().mask()


def test_a_mask_that_takes_too_long_is_a_problem_and_nobody_waits_for_it(
    matcher: GrammarMatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MASK_SECONDS", 0.01)
    with ThreadPoolExecutor(1) as threads:
        slow = SlowMatcher(threads)
        slow.begin_mask()
        slow.began.wait(5)
        assert slow.mask() is None
        assert "takes more than" in str(slow.problem)
        assert slow.mask() is None
        slow.gate.set()


def test_a_mask_that_is_queued_behind_others_is_computed_by_who_needs_it(matcher: GrammarMatcher) -> None:
    expected = matcher.copy().mask()
    gate = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(gate.wait, 5)
        queued = GrammarMatcher(matcher._matcher, "response_format", threads)
        queued.begin_mask()
        assert queued.mask() == expected
        gate.set()


class SlowMatcher(GrammarMatcher):
    """Its masks wait at a gate."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.began, self.gate = threading.Event(), threading.Event()
        super().__init__(self, "response_format", threads)  # type: ignore[arg-type]

    def is_stopped(self) -> bool:
        return False

    def compute_bitmask(self) -> bytes:
        self.began.set()
        self.gate.wait(5)
        return b""
