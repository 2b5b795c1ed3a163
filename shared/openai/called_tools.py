"""A choice's text as content and tool calls: for whole results and, by the same parser, for streams. Pure."""

import hashlib
import json
from dataclasses import replace
from typing import Any

from shared.contracts.events import ChoiceResult, FinishReason
from shared.contracts.requests import InferenceRequest
from shared.contracts.tools import ToolCall
from shared.openai.tool_calls import CLOSING, OPENING, ArgumentsDelta, CallBegun, ContentDelta, Delta, ToolCallParser


def new_parser(request: InferenceRequest) -> ToolCallParser:
    return ToolCallParser({tool.name for tool in request.tools})


def call_id(request_id: str, choice: int, index: int) -> str:
    """The same wherever and however often the text is read."""
    return "call_" + hashlib.sha256(f"{request_id}/{choice}/{index}".encode()).hexdigest()[:24]


def finish_reason_of(reason: FinishReason | None, num_calls: int) -> FinishReason | None:
    return FinishReason.TOOL_CALLS if num_calls and reason is FinishReason.STOP else reason


def with_tool_calls(choice: ChoiceResult, request: InferenceRequest, request_id: str) -> ChoiceResult:
    """The choice as its caller sees it; unchanged where no tool was on offer."""
    if not request.may_call_tools:
        return choice
    parser = new_parser(request)
    deltas = parser.push(choice.text) + parser.finish()
    calls = tuple(
        ToolCall(
            id=call_id(request_id, choice.index, begun.index),
            name=begun.name,
            arguments=_arguments(deltas, begun.index),
        )
        for begun in deltas
        if isinstance(begun, CallBegun)
    )
    return replace(
        choice,
        text="".join(delta.text for delta in deltas if isinstance(delta, ContentDelta)),
        tool_calls=calls,
        finish_reason=finish_reason_of(choice.finish_reason, len(calls)),
    )


def _arguments(deltas: list[Delta], index: int) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, ArgumentsDelta) and delta.index == index)


def message_text(message: dict[str, Any]) -> str:
    """A text that reads as this message of ours: what streams its tool calls when the model's own text is gone."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    written = [
        f'{OPENING}{{"name": {json.dumps(call["name"])}, "arguments": {call["arguments"]}}}{CLOSING}' for call in calls
    ]
    return (message["content"] or "") + "".join(written)
