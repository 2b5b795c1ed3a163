"""The grammar of an answer that has to call a tool, in the spelling that the model's chat template teaches. Pure."""

import json
from enum import StrEnum
from typing import Any

from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.requests import InferenceRequest
from shared.contracts.tools import Tool, ToolChoice
from shared.openai.tool_calls import CLOSING, OPENING

_FIELD = "tool_choice"
_MOST_CALLS = 16
_LAYOUT = {"whitespace_pattern": " ?"}


class ToolCallFormat(StrEnum):
    HERMES = "hermes"
    HERMES_TOKENS = "hermes-tokens"
    """The tags are tokens of the vocabulary: a model that was trained on them should not have to spell them."""
    JSON = "json"


def output_grammar(request: InferenceRequest, call_format: ToolCallFormat) -> Grammar | None:
    """What the output is held to: the caller's grammar, or a call where one is demanded."""
    is_forced = request.tool_choice in (ToolChoice.REQUIRED, ToolChoice.NAMED)
    if not request.tools or not is_forced:
        return request.grammar
    tools = [tool for tool in request.tools if request.tool_choice_name in (None, tool.name)]
    schema = calls_schema(tools)
    layout = json.dumps({**schema, "x-guidance": _LAYOUT})
    if call_format is ToolCallFormat.JSON:
        return Grammar(kind=GrammarKind.LARK, text=f"start: %json {layout}\n", field=_FIELD)
    most_more = _MOST_CALLS - 1 if request.parallel_tool_calls and request.tool_choice is ToolChoice.REQUIRED else 0
    more = f' ("\\n" call){{0,{most_more}}}' if most_more else ""
    are_tokens = call_format is ToolCallFormat.HERMES_TOKENS
    opening, closing = (tag if are_tokens else f'"{tag}"' for tag in (OPENING, CLOSING))
    text = f'start: call{more}\ncall: {opening} "\\n" body "\\n" {closing}\nbody: %json {layout}\n'
    return Grammar(kind=GrammarKind.LARK, text=text, field=_FIELD)


def calls_schema(tools: list[Tool]) -> dict[str, Any]:
    """One call of any of the tools."""
    return {"anyOf": [_call_schema(tool, index) for index, tool in enumerate(tools)]}


def _call_schema(tool: Tool, index: int) -> dict[str, Any]:
    parameters = {"type": "object"} if tool.parameters is None else json.loads(tool.parameters)
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.name},
            "arguments": _moved(parameters, f"#/anyOf/{index}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """References are from the schema's root, which is elsewhere now."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: place + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, place)
        for key, value in schema.items()
    }
