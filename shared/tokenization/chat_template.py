"""Renders a conversation into the prompt that a model was trained on, by the template its authors ship.

A template is a program from a stranger: it runs in jinja2's immutable sandbox and sees plain data only. Filters and
globals are Hugging Face's (transformers, chat_template_utils.py), so that a template means here what it means
there. Knows nothing of tokens.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.meta
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.contracts.errors import InvalidRequest
from shared.contracts.requests import ChatMessage
from shared.contracts.tools import Tool


class _GenerationTag(Extension):
    """`{% generation %}` marks what a trainer would learn from; for a prompt it is only its body."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_render_body"), [], [], body).set_lineno(line)

    def _render_body(self, caller: Any) -> Any:
        return caller()


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002  templates may call it by name
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own escapes HTML, which no model wants."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


_TEMPLATE_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
"""What a program of a few lines can raise when its input is not what it expected."""


class ChatTemplate:
    """One compiled template, or two. Raises jinja2.TemplateSyntaxError when it is none."""

    def __init__(
        self, source: str, *, tool_source: str | None = None, special_tokens: dict[str, str] | None = None
    ) -> None:
        """`tool_source` is for conversations with tools. `special_tokens` are variables: `bos_token` ..."""
        environment = _environment()
        self._template = environment.from_string(source)
        self._tool_template = self._template if tool_source is None else environment.from_string(tool_source)
        self.tool_source = source if tool_source is None else tool_source
        self.has_tools = "tools" in jinja2.meta.find_undeclared_variables(environment.parse(self.tool_source))
        self._special_tokens = dict(special_tokens or {})

    def render(
        self, messages: Sequence[ChatMessage], *, tools: Sequence[Tool] = (), add_generation_prompt: bool = True
    ) -> str:
        """Raises InvalidRequest where the template does: it refuses conversations its model cannot follow."""
        if tools and not self.has_tools:
            raise InvalidRequest("the model's chat template has no place for tools", param="tools")
        try:
            template = self._tool_template if tools else self._template
            return template.render(
                **self._special_tokens,
                messages=[_plain(message) for message in messages],
                tools=[_plain_tool(tool) for tool in tools] or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except _TEMPLATE_FAILURES as error:
            problem = f"the model's chat template refuses these messages: {error}"
            raise InvalidRequest(problem, param="messages") from error


def _plain(message: ChatMessage) -> dict[str, Any]:
    """As OpenAI has it, but for arguments: templates write the object themselves."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return plain


def _plain_tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = json.loads(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}
    return {"type": "function", "function": function}
