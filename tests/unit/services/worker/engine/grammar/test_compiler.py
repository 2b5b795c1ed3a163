"""Grammars become matchers, or refusals with a reason, within bounds."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as BackendTokenizer

from services.worker.engine.grammar.compiler import GrammarCompiler, GrammarRefused
from services.worker.engine.grammar.matcher import GrammarMatcher
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.requests import InferenceRequest, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool, ToolChoice
from shared.openai.tool_calls import CLOSING, OPENING
from shared.openai.tool_grammar import ToolCallFormat, output_grammar
from shared.tokenization.tokenizer import Tokenizer
from tests.builders import write_tokenizer
from tests.fixtures.tiny_tokenizers import byte_level_tokenizer
from tests.fixtures.tiny_tokenizers import write_tokenizer as write_small_tokenizer

EOS = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_directory(model)


@pytest.fixture(scope="module")
def compiler(model: Path) -> GrammarCompiler:
    return GrammarCompiler(model, vocabulary_size=512)


def allowed(matcher: GrammarMatcher) -> set[int]:
    mask = matcher.mask()
    assert mask is not None, matcher.problem
    return {bit for bit in range(8 * len(mask)) if mask[bit // 8] >> (bit % 8) & 1}


def accepts(compiler: GrammarCompiler, tokenizer: Tokenizer, grammar: Grammar, text: str) -> bool:
    """The whole text is a word: every token is allowed where it stands, and then the end is."""
    matcher = compiler.compile(grammar, [EOS])
    for token_id in tokenizer.encode(text):
        if token_id not in allowed(matcher):
            return False
        matcher.advance([token_id])
    return matcher.is_finished or EOS in allowed(matcher)


CITY = json.dumps(
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
)


@pytest.mark.parametrize(
    ("kind", "text", "word", "other"),
    [
        (GrammarKind.JSON_SCHEMA, CITY, '{"city": "Köln"}', '{"town": "Köln"}'),
        (GrammarKind.JSON_SCHEMA, CITY, '{\n  "city": "Köln"\n}', '{"city": 7}'),
        (GrammarKind.JSON_OBJECT, "", '{"a": [1, null]}', "[1]"),
        (GrammarKind.REGEX, "[a-c]{2}-[0-9]+", "ab-17", "ad-17"),
        (GrammarKind.CHOICE, '["yes", "no \\"way\\""]', 'no "way"', "maybe"),
        (GrammarKind.LARK, 'start: "a" ("b" | "c")+ "."', "abcb.", "a."),
    ],
)
def test_every_kind_accepts_its_words_and_no_others(
    compiler: GrammarCompiler, tokenizer: Tokenizer, kind: GrammarKind, text: str, word: str, other: str
) -> None:
    grammar = Grammar(kind=kind, text=text)
    assert accepts(compiler, tokenizer, grammar, word)
    assert not accepts(compiler, tokenizer, grammar, other)


def test_the_end_is_allowed_only_where_the_output_may_end(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    matcher = compiler.compile(Grammar(kind=GrammarKind.REGEX, text="ab?"), [EOS])
    assert EOS not in allowed(matcher)
    matcher.advance(tokenizer.encode("a"))
    assert EOS in allowed(matcher)
    assert not matcher.is_finished


def test_an_output_that_nothing_may_follow_is_finished_without_an_end_token(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    matcher = compiler.compile(Grammar(kind=GrammarKind.CHOICE, text='["a"]'), [EOS])
    assert not matcher.is_finished
    matcher.advance(tokenizer.encode("a"))
    assert matcher.is_finished
    assert matcher.problem is None


def test_special_tokens_are_never_allowed_as_text(compiler: GrammarCompiler) -> None:
    matcher = compiler.compile(Grammar(kind=GrammarKind.REGEX, text="(.|\n)*"), [EOS])
    assert allowed(matcher) & {0, 1, 2} == {EOS}


def test_a_model_without_an_end_token_ends_with_another_special_one(model: Path) -> None:
    matcher = GrammarCompiler(model, vocabulary_size=512).compile(Grammar(kind=GrammarKind.REGEX, text="a*"), [])
    (end,) = allowed(matcher) & {0, 1, 2}
    matcher.advance([end])
    assert matcher.is_finished


def test_a_model_without_any_special_token_says_so(tmp_path: Path) -> None:
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = BackendTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(GrammarRefused, match="no token that ends"):
        GrammarCompiler(tmp_path, vocabulary_size=512).compile(Grammar(kind=GrammarKind.JSON_OBJECT), [])


def test_each_compilation_is_a_fresh_start(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = Grammar(kind=GrammarKind.CHOICE, text='["ab"]', field="structured_outputs")
    first, second = compiler.compile(grammar, [EOS]), compiler.compile(grammar, [EOS])
    first.advance(tokenizer.encode("ab"))
    assert first.is_finished
    assert not second.is_finished
    assert second.field == "structured_outputs"


def many_of_all() -> dict[str, Any]:
    """2 to the power of 25 conjunctions."""
    definitions: dict[str, Any] = {
        f"d{index}": {"allOf": [{"$ref": f"#/$defs/d{index + 1}"}, {"$ref": f"#/$defs/d{index + 1}"}]}
        for index in range(25)
    }
    definitions["d25"] = {"type": "object", "properties": {"x": {"type": "string"}}}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


def disjunctions() -> dict[str, Any]:
    """2 to the power of 30 alternatives."""
    return {
        "allOf": [
            {"anyOf": [{"type": "object", "properties": {f"{side}{index}": {"type": "string"}}} for side in "ab"]}
            for index in range(30)
        ]
    }


IMPOSSIBLE = {
    "a type and no value of it": {"type": "string", "enum": [1]},
    "bounds that cross": {"type": "integer", "minimum": 5, "maximum": 3},
    "what is not supported": {"not": {}},
    "a schema somewhere else": {"$ref": "http://example.com/schema"},
    "exponentially many alternatives": disjunctions(),
}


@pytest.mark.parametrize("schema", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_schema_is_refused_with_a_reason_in_one_line(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    with pytest.raises(GrammarRefused) as refusal:
        compiler.compile(Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(schema)), [EOS])
    assert 0 < len(str(refusal.value)) <= 300
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (GrammarKind.JSON_SCHEMA, "not JSON"),
        (GrammarKind.JSON_SCHEMA, "[]"),
        (GrammarKind.REGEX, "(?=a)b"),
        (GrammarKind.REGEX, "[^\\s\\S]"),
        (GrammarKind.REGEX, "a("),
        (GrammarKind.LARK, "nonsense"),
        (GrammarKind.LARK, "start: " + "(" * 5_000 + '"a"' + ")" * 5_000),
        (GrammarKind.CHOICE, "{"),
    ],
)
def test_what_is_no_grammar_is_refused(compiler: GrammarCompiler, kind: GrammarKind, text: str) -> None:
    with pytest.raises(GrammarRefused):
        compiler.compile(Grammar(kind=kind, text=text), [EOS])


HOSTILE = {
    "conjunctions": (GrammarKind.JSON_SCHEMA, json.dumps(many_of_all())),
    "a thousand properties": (
        GrammarKind.JSON_SCHEMA,
        json.dumps({"type": "object", "properties": {f"p{index}": {"type": "string"} for index in range(1_000)}}),
    ),
    "a billion items": (GrammarKind.JSON_SCHEMA, json.dumps({"type": "array", "minItems": 10**9})),
    "a billion letters": (GrammarKind.REGEX, "a{1000000000}"),
    "repetitions of repetitions": (GrammarKind.REGEX, "((((a{1,100}){1,100}){1,100}){1,100})"),
    "doubling rules": (
        GrammarKind.LARK,
        "start: a0\n" + "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(40)) + 'a40: "x"',
    ),
    "an intersection": (
        GrammarKind.LARK,
        "start: A\nA: " + " & ".join(f"/.*a.{{{index}}}/" for index in range(12)),
    ),
}


@pytest.mark.parametrize(("kind", "text"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_grammar_costs_seconds_at_most_whether_it_is_refused_or_fails_later(
    compiler: GrammarCompiler, kind: GrammarKind, text: str
) -> None:
    started = time.monotonic()
    try:
        matcher = compiler.compile(Grammar(kind=kind, text=text), [EOS])
    except GrammarRefused:
        matcher = None
    for _ in range(20):
        mask = None if matcher is None else matcher.mask()
        if matcher is None or mask is None or matcher.is_finished:
            break
        matcher.advance([next(bit for bit in range(512) if mask[bit // 8] >> (bit % 8) & 1)])
    assert time.monotonic() - started < 20


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(GrammarRefused, match=r"tokenizer\.json"):
        GrammarCompiler(tmp_path, vocabulary_size=512).compile(Grammar(kind=GrammarKind.JSON_OBJECT), [EOS])


def test_old_prototypes_are_forgotten(compiler: GrammarCompiler) -> None:
    for number in range(70):
        compiler.compile(Grammar(kind=GrammarKind.CHOICE, text=f'["{number}"]'), [EOS])
    assert len(compiler._prototypes) == 64


@pytest.mark.parametrize("call_format", list(ToolCallFormat))
def test_a_demanded_call_is_a_word_of_its_grammar_in_every_spelling(
    tmp_path: Path, call_format: ToolCallFormat
) -> None:
    """Where the tags are tokens they are not spelled: llguidance would offer the token and then refuse it."""
    backend = byte_level_tokenizer()
    if call_format is ToolCallFormat.HERMES_TOKENS:
        backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (OPENING, CLOSING)])
    write_small_tokenizer(tmp_path, backend)
    request = InferenceRequest(
        kind=RequestKind.CHAT,
        model=None,
        sampling=SamplingParameters(),
        tools=(Tool(name="f", parameters='{"type": "object", "additionalProperties": false}'),),
        tool_choice=ToolChoice.REQUIRED,
        parallel_tool_calls=False,
    )
    grammar = output_grammar(request, call_format)
    assert grammar is not None
    matcher = GrammarCompiler(tmp_path, vocabulary_size=300).compile(grammar, [backend.token_to_id("<|end|>")])
    call = '{"name": "f", "arguments": {}}'
    text = call if call_format is ToolCallFormat.JSON else f"{OPENING}\n{call}\n{CLOSING}"
    for token_id in backend.encode(text).ids:
        assert token_id in allowed(matcher)
        matcher.advance([token_id])
        assert matcher.problem is None
    assert matcher.is_finished
