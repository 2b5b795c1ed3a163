"""Formats, grammars, tools and bias in a body: what they become, and what is refused by its path."""

import json
from typing import Any

import pytest

from shared.contracts.errors import InvalidRequest
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.requests import InferenceRequest, RequestKind
from shared.contracts.tools import Tool, ToolCall, ToolChoice
from shared.openai.requests import parse_request

HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}
LOOK_UP = {"type": "function", "function": {"name": "look_up", "description": "A word", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now", "strict": True}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}


def chat(**fields: Any) -> InferenceRequest:
    return parse_request(json.dumps({"messages": HELLO} | fields).encode(), kind=RequestKind.CHAT)


def completion(**fields: Any) -> InferenceRequest:
    return parse_request(json.dumps({"prompt": "Once"} | fields).encode(), kind=RequestKind.COMPLETION)


def refused(parse: Any, **fields: Any) -> str | None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(**fields)
    return refusal.value.param


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


@pytest.mark.parametrize("parse", [chat, completion])
class TestGrammars:
    @pytest.mark.parametrize(
        ("given", "grammar"),
        [
            ({"type": "text"}, None),
            ({"type": "json_object"}, Grammar(kind=GrammarKind.JSON_OBJECT, field="response_format")),
            (
                schema_format(SCHEMA),
                Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA), field="response_format"),
            ),
        ],
    )
    def test_a_response_format_is_a_grammar(self, parse: Any, given: Any, grammar: Grammar | None) -> None:
        assert parse(response_format=given).grammar == grammar

    @pytest.mark.parametrize(
        ("given", "kind", "text"),
        [
            ({"json": SCHEMA}, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
            ({"json_object": True}, GrammarKind.JSON_OBJECT, ""),
            ({"regex": "a+"}, GrammarKind.REGEX, "a+"),
            ({"choice": ["ja", "né"]}, GrammarKind.CHOICE, '["ja", "né"]'),
            ({"grammar": 'start: "a"'}, GrammarKind.LARK, 'start: "a"'),
        ],
    )
    def test_structured_outputs_are_vllms(self, parse: Any, given: Any, kind: GrammarKind, text: str) -> None:
        assert parse(structured_outputs=given).grammar == Grammar(kind=kind, text=text, field="structured_outputs")

    @pytest.mark.parametrize(
        ("given", "kind", "text"),
        [
            ({"guided_json": SCHEMA}, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
            ({"guided_json": json.dumps(SCHEMA)}, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
            ({"guided_regex": "a+"}, GrammarKind.REGEX, "a+"),
            ({"guided_choice": ["ja", "né"]}, GrammarKind.CHOICE, '["ja", "né"]'),
            ({"guided_grammar": 'start: "a"'}, GrammarKind.LARK, 'start: "a"'),
        ],
    )
    def test_vllms_earlier_names_mean_the_same(self, parse: Any, given: Any, kind: GrammarKind, text: str) -> None:
        (field,) = given
        assert parse(**given).grammar == Grammar(kind=kind, text=text, field=field)

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"guided_json": "{"}, "guided_json"),
            ({"guided_json": "[1]"}, "guided_json"),
            ({"guided_choice": []}, "guided_choice"),
            ({"guided_regex": ""}, "guided_regex"),
            ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
            ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "guided_regex"),
            ({"guided_regex": "a" * 65_537}, "guided_regex"),
            ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
            ({"response_format": {"type": "xml"}}, "response_format.type"),
            ({"response_format": "json"}, "response_format"),
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
                "response_format.json_schema.schema",
            ),
            ({"response_format": schema_format([])}, "response_format.json_schema.schema"),
            ({"structured_outputs": {}}, "structured_outputs"),
            ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
            ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
            ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
            ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice[0]"),
            ({"structured_outputs": {"choice": ["x"] * 1_025}}, "structured_outputs.choice"),
            ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
            ({"structured_outputs": {"regex": "a" * 65_537}}, "structured_outputs"),
            ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
            ({"guided_whitespace_pattern": "a"}, "guided_whitespace_pattern"),
        ],
    )
    def test_anything_else_is_refused_by_its_path(self, parse: Any, fields: Any, param: str) -> None:
        assert refused(parse, **fields) == param

    def test_a_schema_may_have_more_fields_than_a_body(self, parse: Any) -> None:
        wide = {"type": "object", "properties": {f"p{index}": {} for index in range(200)}}
        assert json.loads(parse(response_format=schema_format(wide)).grammar.text) == wide

    def test_a_bias_is_of_tokens_in_order(self, parse: Any) -> None:
        assert parse(logit_bias={"50": 1, "9": -100}).sampling.logit_bias == ((9, -100.0), (50, 1.0))
        assert parse(logit_bias={}).sampling.logit_bias == ()

    @pytest.mark.parametrize(
        "bias",
        [{"a": 1}, {"-1": 1}, {"1": 101}, {"1": "1"}, [], {"1": None}, {str(index): 1 for index in range(1_025)}],
    )
    def test_an_odd_bias_is_refused(self, parse: Any, bias: Any) -> None:
        param = refused(parse, logit_bias=bias)
        assert param is not None
        assert param.startswith("logit_bias")


class TestTools:
    def test_tools_keep_their_schemas_as_they_were_written(self) -> None:
        request = chat(tools=[LOOK_UP, NOW])
        assert request.tools == (
            Tool(name="look_up", description="A word", parameters=json.dumps(SCHEMA)),
            Tool(name="now"),
        )
        assert request.tool_choice is ToolChoice.AUTO
        assert request.may_call_tools

    @pytest.mark.parametrize(
        ("given", "choice", "name"),
        [
            ("auto", ToolChoice.AUTO, None),
            ("none", ToolChoice.NONE, None),
            ("required", ToolChoice.REQUIRED, None),
            ({"type": "function", "function": {"name": "now"}}, ToolChoice.NAMED, "now"),
        ],
    )
    def test_the_choice_is_a_word_or_a_name(self, given: Any, choice: ToolChoice, name: str | None) -> None:
        request = chat(tools=[LOOK_UP, NOW], tool_choice=given, parallel_tool_calls=False)
        assert (request.tool_choice, request.tool_choice_name) == (choice, name)
        assert not request.parallel_tool_calls
        assert request.may_call_tools is (choice is not ToolChoice.NONE)

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
            ({"tools": [{"type": "function"}]}, "tools[0].function"),
            ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
            ({"tools": [NOW, NOW]}, "tools"),
            ({"tools": [NOW] * 129}, "tools"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tools": [NOW], "tool_choice": "always"}, "tool_choice"),
            ({"tools": [NOW], "tool_choice": 7}, "tool_choice"),
            ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
            ({"tools": [NOW], "response_format": {"type": "json_object"}}, "response_format"),
            ({"tools": [NOW], "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_its_path(self, fields: Any, param: str) -> None:
        found = refused(chat, **fields)
        assert found == param or (found or "").startswith(f"{param}.")

    def test_a_format_goes_with_tools_that_are_not_to_be_called(self) -> None:
        assert chat(tools=[NOW], tool_choice="none", response_format={"type": "json_object"}).grammar is not None

    def test_calls_and_answers_of_earlier_turns_are_kept(self) -> None:
        assistant = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        answer = {"role": "tool", "tool_call_id": "c1", "content": "found"}
        _, calling, answering = chat(messages=[*HELLO, assistant, answer]).messages
        assert calling.tool_calls == (ToolCall(id="c1", name="look_up", arguments='{"a": 1}'),)
        assert calling.content == ""
        assert answering.tool_call_id == "c1"

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            ({"role": "assistant", "content": None}, "messages[0].content"),
            ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls"),
            (
                {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "no"}}]},
                "messages[0].tool_calls[0].function.arguments",
            ),
        ],
    )
    def test_a_message_that_makes_no_sense_is_refused_by_its_path(self, message: Any, param: str) -> None:
        assert refused(chat, messages=[message]) == param


class TestEcho:
    def test_a_completion_may_be_echoed_and_a_chat_not(self) -> None:
        assert completion(echo=True).echo
        assert not completion().echo
        assert refused(chat, echo=True) == "echo"
