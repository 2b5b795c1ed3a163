"""The parts of a request's body that say what the output has to be: formats, grammars and tools. Shapes only."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import from_json

from shared.openai import limits
from shared.openai.strict_body import StrictBody

SchemaObject = dict[str, Any]


def _parsed(value: object) -> object:
    """vLLM takes a schema as an object or as its text. Raises ValueError for text that is not JSON."""
    return from_json(value, allow_inf_nan=False) if isinstance(value, str) else value


GuidedJson = Annotated[SchemaObject, BeforeValidator(_parsed)]
GrammarText = Annotated[str, Field(min_length=1)]
GrammarChoices = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1, max_length=limits.MAX_GRAMMAR_CHOICES, fail_fast=True),
]
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
    regex: GrammarText | None = None
    choice: GrammarChoices | None = None
    grammar: GrammarText | None = None


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
