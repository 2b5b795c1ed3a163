"""A demanded call is a grammar, in the spelling that the template teaches; the caller's own grammar stays."""

import json
from typing import Any

import pytest

from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.requests import ChatMessage, InferenceRequest, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool, ToolChoice
from shared.openai.tool_grammar import ToolCallFormat, calls_schema, output_grammar

SCHEMA = {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": "null"}}}
WITH_REFERENCE = Tool(name="f", parameters=json.dumps(SCHEMA))
PLAIN = Tool(name="g")


def request(**changes: Any) -> InferenceRequest:
    messages = (ChatMessage(role="user", content="x"),)
    return InferenceRequest(
        kind=RequestKind.CHAT, model=None, messages=messages, sampling=SamplingParameters(), **changes
    )


@pytest.mark.parametrize("choice", [ToolChoice.AUTO, ToolChoice.NONE])
def test_where_no_call_is_demanded_the_callers_grammar_counts(choice: ToolChoice) -> None:
    own = Grammar(kind=GrammarKind.REGEX, text="a")
    assert output_grammar(request(tools=(PLAIN,), tool_choice=choice, grammar=own), ToolCallFormat.HERMES) is own
    assert output_grammar(request(), ToolCallFormat.HERMES) is None


def test_tags_that_are_tokens_are_not_spelled() -> None:
    demanded = request(tools=(PLAIN,), tool_choice=ToolChoice.REQUIRED)
    spelled = output_grammar(demanded, ToolCallFormat.HERMES)
    tokens = output_grammar(demanded, ToolCallFormat.HERMES_TOKENS)
    assert spelled is not None
    assert tokens is not None
    assert '"<tool_call>"' in spelled.text
    assert '"<tool_call>"' not in tokens.text
    assert "<tool_call>" in tokens.text


def test_references_are_moved_with_their_schema() -> None:
    first, second = calls_schema([PLAIN, WITH_REFERENCE])["anyOf"]
    assert first["properties"]["arguments"] == {"type": "object"}
    moved = second["properties"]["arguments"]
    assert moved["properties"]["x"] == {"$ref": "#/anyOf/1/properties/arguments/$defs/X"}
    assert moved["$defs"] == {"X": {"type": "null"}}


@pytest.mark.parametrize(
    ("changes", "num_names", "has_more"),
    [
        ({"tool_choice": ToolChoice.REQUIRED}, 2, True),
        ({"tool_choice": ToolChoice.REQUIRED, "parallel_tool_calls": False}, 2, False),
        ({"tool_choice": ToolChoice.NAMED, "tool_choice_name": "g"}, 1, False),
    ],
)
def test_a_demanded_call_is_of_one_of_the_tools(changes: dict[str, Any], num_names: int, has_more: bool) -> None:
    grammar = output_grammar(request(tools=(WITH_REFERENCE, PLAIN), **changes), ToolCallFormat.HERMES)
    assert grammar is not None
    assert grammar.kind is GrammarKind.LARK
    assert grammar.field == "tool_choice"
    assert grammar.text.count('"const"') == num_names
    assert ("{0,15}" in grammar.text) is has_more
    assert "<tool_call>" in grammar.text


def test_without_tags_the_call_is_the_whole_answer() -> None:
    grammar = output_grammar(request(tools=(PLAIN,), tool_choice=ToolChoice.REQUIRED), ToolCallFormat.JSON)
    assert grammar is not None
    assert grammar.text.startswith("start: %json {")
    assert "<tool_call>" not in grammar.text
