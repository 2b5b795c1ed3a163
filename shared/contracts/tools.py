"""Functions that a model may ask its caller to run, and what it asks. Values only; nothing here is executed."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """`parameters` is a JSON schema as text, as the caller wrote it; None: no arguments."""

    name: str
    description: str | None = None
    parameters: str | None = None


class ToolChoice(StrEnum):
    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "named"
    """The tool of `InferenceRequest.tool_choice_name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """`arguments` is JSON as the model wrote it: text, not checked."""

    id: str
    name: str
    arguments: str
