"""What the output has to be, from the body's fields to the contract, and the limits it is held to. Pure."""

import json
from typing import Any, Protocol

from shared.contracts.errors import InvalidRequest
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.requests import InferenceRequest, RequestKind
from shared.contracts.tools import Tool, ToolChoice
from shared.openai.limits import MAX_GRAMMAR_CHARACTERS, MAX_GRAMMAR_CHOICES, MAX_TOOLS
from shared.openai.output_schema import NamedTool, ResponseFormat, StructuredOutputs, ToolDefinition

_RESPONSE_FORMAT, _STRUCTURED = "response_format", "structured_outputs"


class ConstrainedBody(Protocol):
    """The fields of a body that hold its output to a grammar."""

    response_format: ResponseFormat | None
    structured_outputs: StructuredOutputs | None
    guided_json: dict[str, Any] | None
    guided_regex: str | None
    guided_choice: list[str] | None
    guided_grammar: str | None


def read_grammar(body: ConstrainedBody) -> Grammar | None:
    """At most one of the fields that say it. Raises InvalidRequest."""
    found = [grammar for grammar in _grammars(body) if grammar is not None]
    if len(found) > 1:
        first, second = found[0].field, found[1].field
        raise InvalidRequest(f"{second} and {first} exclude each other.", param=second)
    return found[0] if found else None


def _grammars(body: ConstrainedBody) -> list[Grammar | None]:
    """The last four are what vLLM called its `structured_outputs` before."""
    asked, structured = body.response_format, body.structured_outputs
    return [
        None if asked is None else _from_response_format(asked),
        None if structured is None else _from_structured(structured),
        _guided(GrammarKind.JSON_SCHEMA, None if body.guided_json is None else _text(body.guided_json), "guided_json"),
        _guided(GrammarKind.REGEX, body.guided_regex, "guided_regex"),
        _guided(GrammarKind.CHOICE, None if body.guided_choice is None else _text(body.guided_choice), "guided_choice"),
        _guided(GrammarKind.LARK, body.guided_grammar, "guided_grammar"),
    ]


def _guided(kind: GrammarKind, text: str | None, field: str) -> Grammar | None:
    return None if text is None else Grammar(kind=kind, text=text, field=field)


def _from_response_format(asked: ResponseFormat) -> Grammar | None:
    if asked.type == "text":
        return None
    if asked.type == "json_object":
        return Grammar(kind=GrammarKind.JSON_OBJECT, field=_RESPONSE_FORMAT)
    if asked.json_schema is None:
        param = f"{_RESPONSE_FORMAT}.json_schema"
        raise InvalidRequest(f"Missing required field: {param}.", param=param)
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=_text(asked.json_schema.schema_), field=_RESPONSE_FORMAT)


def _from_structured(asked: StructuredOutputs) -> Grammar:
    ways = {
        GrammarKind.JSON_SCHEMA: None if asked.json_ is None else _text(asked.json_),
        GrammarKind.JSON_OBJECT: "" if asked.json_object else None,
        GrammarKind.REGEX: asked.regex,
        GrammarKind.CHOICE: None if asked.choice is None else _text(asked.choice),
        GrammarKind.LARK: asked.grammar,
    }
    chosen = [(kind, text) for kind, text in ways.items() if text is not None]
    if len(chosen) != 1:
        raise InvalidRequest(f"{_STRUCTURED} needs exactly one way to say it.", param=_STRUCTURED)
    ((kind, text),) = chosen
    return Grammar(kind=kind, text=text, field=_STRUCTURED)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def read_tools(tools: list[ToolDefinition] | None) -> tuple[Tool, ...]:
    return tuple(
        Tool(
            name=tool.function.name,
            description=tool.function.description,
            parameters=None if tool.function.parameters is None else _text(tool.function.parameters),
        )
        for tool in tools or ()
    )


def read_tool_choice(choice: str | NamedTool | None) -> tuple[ToolChoice, str | None]:
    if isinstance(choice, NamedTool):
        return ToolChoice.NAMED, choice.function.name
    return ToolChoice(choice or "auto"), None


def check_output(request: InferenceRequest) -> None:
    """What a request may demand of its output, whichever format it came in. Raises InvalidRequest."""
    if request.grammar is not None:
        _check_grammar(request.grammar, may_call_tools=request.may_call_tools)
    if request.echo and request.kind is RequestKind.CHAT:
        raise InvalidRequest("echo is for completions only.", param="echo")
    _check_tools(request)
    for index, message in enumerate(request.messages):
        where = f"messages[{index}].tool_calls"
        if message.tool_calls and message.role != "assistant":
            raise InvalidRequest(f"{where} belong to an assistant.", param=where)
        for position, call in enumerate(message.tool_calls):
            _check_json_object(call.arguments, f"{where}[{position}].function.arguments")


def _check_grammar(grammar: Grammar, *, may_call_tools: bool) -> None:
    field = grammar.field
    if may_call_tools:
        raise InvalidRequest(f"{field} cannot be combined with tools unless tool_choice is none.", param=field)
    if len(grammar.text) > MAX_GRAMMAR_CHARACTERS:
        raise InvalidRequest(
            f"{field} has {len(grammar.text)} characters, more than {MAX_GRAMMAR_CHARACTERS}.", param=field
        )
    if grammar.kind is GrammarKind.CHOICE:
        _check_choices(grammar)


def _check_choices(grammar: Grammar) -> None:
    try:
        choices = json.loads(grammar.text)
    except (ValueError, RecursionError):
        choices = None
    is_list = isinstance(choices, list) and 0 < len(choices) <= MAX_GRAMMAR_CHOICES
    if not is_list or not all(isinstance(choice, str) and choice for choice in choices):
        raise InvalidRequest(
            f"{grammar.field}: a choice is between 1 to {MAX_GRAMMAR_CHOICES} strings.", param=grammar.field
        )


def _check_tools(request: InferenceRequest) -> None:
    tools = request.tools
    if tools and request.kind is not RequestKind.CHAT:
        raise InvalidRequest("tools are for chats only.", param="tools")
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"{len(tools)} tools are more than {MAX_TOOLS}.", param="tools")
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidRequest("Two tools have the same name.", param="tools")
    if sum(len(tool.parameters or "") for tool in tools) > MAX_GRAMMAR_CHARACTERS:
        raise InvalidRequest(
            f"The tools' parameters have more than {MAX_GRAMMAR_CHARACTERS} characters.", param="tools"
        )
    for index, tool in enumerate(tools):
        if tool.parameters is not None:
            _check_json_object(tool.parameters, f"tools[{index}].function.parameters")
    if request.tool_choice in (ToolChoice.REQUIRED, ToolChoice.NAMED) and not tools:
        raise InvalidRequest("tool_choice needs tools to choose from.", param="tool_choice")
    is_named = request.tool_choice is ToolChoice.NAMED
    if is_named and request.tool_choice_name not in {tool.name for tool in tools}:
        raise InvalidRequest("tool_choice names a tool that is not there.", param="tool_choice")


def _check_json_object(text: str, where: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} must be a JSON object.", param=where)
