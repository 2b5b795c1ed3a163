"""Grammars into matchers over the model's vocabulary, by llguidance; the engine's only place that sees token bytes.

A grammar comes from a stranger: its size is capped by whoever reads it, llguidance's limits bound what compiling
and each step may cost (fuel, states, items), and whoever waits for a compilation has a deadline. One prototype per
grammar is kept; every choice gets a copy of it. Thread-safe.

Source: https://github.com/guidance-ai/llguidance (docs/syntax.md, docs/json_schema.md).
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from services.worker.engine.grammar.matcher import GrammarMatcher, problem_of
from shared.contracts.grammar import Grammar, GrammarKind

_LIMITS = LLParserLimits(
    max_grammar_size=100_000,
    max_lexer_states=50_000,
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    verbose_errors=False,
)
_JSON_OPTIONS = {"whitespace_pattern": r"[ \t\n]{0,20}"}
"""Room for any usual layout; without a limit a model may say spaces until its last token."""
_MOST_PROTOTYPES = 64
_NUM_THREADS = 2


class GrammarRefused(ValueError):
    """Why no output can be held to this grammar, or not within the limits."""


class GrammarCompiler:
    """`compile` may take a second (the first one more: it reads the tokenizer). Raises GrammarRefused."""

    def __init__(self, model: Path, *, vocabulary_size: int) -> None:
        self._file = model / "tokenizer.json"
        self._vocabulary_size = vocabulary_size
        self._tokenizer: LLTokenizer | None = None
        self._prototypes: OrderedDict[tuple[GrammarKind, str], LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self.threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grammar")
        self._mask_threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="token-masks")

    def compile(self, grammar: Grammar, eos_token_ids: Sequence[int]) -> GrammarMatcher:
        """A fresh matcher. `eos_token_ids` are the model's, the same at every call."""
        key = (grammar.kind, grammar.text)
        with self._lock:
            prototype = self._prototypes.get(key)
            tokenizer = self._loaded_tokenizer(eos_token_ids) if prototype is None else None
        if prototype is None:
            assert tokenizer is not None
            prototype = _compiled(tokenizer, grammar)
        with self._lock:
            self._prototypes[key] = prototype
            self._prototypes.move_to_end(key)
            if len(self._prototypes) > _MOST_PROTOTYPES:
                self._prototypes.popitem(last=False)
            return GrammarMatcher(prototype.deep_copy(), grammar.field, self._mask_threads)

    def _loaded_tokenizer(self, eos_token_ids: Sequence[int]) -> LLTokenizer:
        if self._tokenizer is None:
            self._tokenizer = _load_tokenizer(self._file, self._vocabulary_size, eos_token_ids)
        return self._tokenizer


def _load_tokenizer(file: Path, vocabulary_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    if not file.is_file():
        raise GrammarRefused("the model has no tokenizer.json, so that its output cannot be held to a grammar")
    backend = Tokenizer.from_file(str(file))
    backend.no_padding()
    backend.no_truncation()
    size = backend.get_vocab_size(with_added_tokens=True)
    special = [token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special]
    # A model that names no end token says by any other special one that its output is complete.
    eos = [token_id for token_id in eos_token_ids if token_id < size] or special[:1]
    if not eos:
        raise GrammarRefused("the model has no token that ends its output")
    try:
        return LLTokenizer(backend.to_str(), n_vocab=max(size, vocabulary_size), eos_token=eos)
    except ValueError as error:
        raise GrammarRefused(f"the model's tokenizer cannot be held to a grammar: {error}") from error


def _compiled(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    try:
        source = _source(grammar)
    except (ValueError, RecursionError) as error:
        raise GrammarRefused(_first_line(str(error))) from error
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise GrammarRefused(_first_line(matcher.get_error()))
    # The first mask shows what only running shows: a language without a word, a lexer beyond its limits.
    trial = matcher.deep_copy()
    trial.compute_bitmask()
    if (problem := problem_of(trial)) is not None:
        raise GrammarRefused(_first_line(problem))
    return matcher


def _source(grammar: Grammar) -> str:
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(grammar.text, overrides=_JSON_OPTIONS)  # type: ignore[arg-type]
        case GrammarKind.JSON_OBJECT:
            return LLMatcher.grammar_from_json_schema('{"type":"object"}', overrides=_JSON_OPTIONS)  # type: ignore[arg-type]
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.text)
        case GrammarKind.CHOICE:
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(_literal, json.loads(grammar.text))))
        case GrammarKind.LARK:
            return LLMatcher.grammar_from_lark(grammar.text)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _first_line(message: str) -> str:
    return message.partition("\n")[0][:300]
