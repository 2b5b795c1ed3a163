"""The parts of a request's body that say what the output has to be: formats, grammars and tools. Shapes only."""

from typing import Annotated, Any, Literal

from pydantic import Field

from shared.openai import limits
from shared.openai.strict_body import StrictBody

SchemaObject = dict[str, Any]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class JsonSchema(StrictBody):
    name: str
    description: str | None = None
    schema_: Annotated[SchemaObject, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(StrictBody):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(StrictBody):
    """vLLM's field: exactly one of them."""

    json_: Annotated[SchemaObject | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: (
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(min_length=1, max_length=limits.MAX_GRAMMAR_CHOICES, fail_fast=True),
        ]
        | None
    ) = None
    grammar: Annotated[str, Field(min_length=1)] | None = None


class FunctionDefinition(StrictBody):
    name: ToolName
    description: str | None = None
    parameters: SchemaObject | None = None
    strict: bool | None = None


class ToolDefinition(StrictBody):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(StrictBody):
    name: str


class NamedTool(StrictBody):
    type: Literal["function"]
    function: FunctionName


class CalledFunction(StrictBody):
    name: str
    arguments: str


class CalledTool(StrictBody):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None
