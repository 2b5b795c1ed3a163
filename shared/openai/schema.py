"""OpenAI's request bodies as pydantic models: which fields there are, and what each may hold.

Refuses to know what the fields mean to us (`requests.py` translates). Strict: no number in a string, no 1.0 for 1.
Three kinds of fields: supported; inert (accepted, checked, ignored); unsupported ones that would change the answer,
of which only null and the default are accepted. Anything else is an unknown field. Subset of OpenAI's reference
of 2025 plus vLLM's sampling extras.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from shared.openai import limits
from shared.openai.output_schema import (
    CalledTool,
    GrammarChoices,
    GrammarText,
    GuidedJson,
    NamedTool,
    ResponseFormat,
    StructuredOutputs,
    ToolDefinition,
)
from shared.openai.strict_body import StrictBody

TAG_MARK = "as "
"""Members of unions are tagged with this, so that their tags can be left out of a field's path."""

UNSUPPORTED = "unsupported"
"""The type of the error that a value other than the default raises in an unsupported field."""


def _default_only(*defaults: object) -> BeforeValidator:
    """Accepts null and the given values (of the same type, so that 1 is not True) and nothing else."""

    def check(value: object) -> None:
        if value is not None and not any(type(value) is type(default) and value == default for default in defaults):
            raise PydanticCustomError(UNSUPPORTED, "is not supported")

    return BeforeValidator(check)


def _tag(text: str, sequence: str) -> Callable[[object], str | None]:
    def tag(value: object) -> str | None:
        if isinstance(value, str):
            return text
        return sequence if isinstance(value, list) else None

    return tag


def _prompt_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "as text"
    if not isinstance(value, list) or not value:
        return None
    first = value[0]
    if isinstance(first, str):
        return "as texts"
    return "as token lists" if isinstance(first, list) else "as tokens"


def _choice_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "as text"
    return "as tool" if isinstance(value, dict) else None


def _reject_odd_token_ids(value: object) -> object:
    if isinstance(value, dict):
        if len(value) > limits.MAX_BIASED_TOKENS:
            raise PydanticCustomError("bias", f"must have at most {limits.MAX_BIASED_TOKENS} tokens")
        if not all(isinstance(key, str) and key.isdecimal() and key.isascii() and len(key) < 10 for key in value):
            raise PydanticCustomError("bias", "must be an object from token ids to numbers")
    return value


def _reject_null(value: object) -> object:
    if value is None:
        raise PydanticCustomError("null", "must not be null")
    return value


Unsupported = Annotated[None, _default_only()]
TokenId = Annotated[int, Field(ge=0, le=limits.MAX_TOKEN)]
TokenCount = Annotated[int, Field(ge=1, le=limits.MAX_TOKEN)]
StopString = Annotated[str, Field(min_length=1, max_length=limits.MAX_STOP_CHARACTERS)]
NonEmptyText = Annotated[str, Field(min_length=1)]
TokenList = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


class TextPart(StrictBody):
    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("as text")] | Annotated[list[TextPart], Field(min_length=1, fail_fast=True), Tag("as parts")],
    Discriminator(
        _tag("as text", "as parts"),
        custom_error_type="content",
        custom_error_message="must be a string or a list of text parts",
    ),
]
Stop = Annotated[
    Annotated[StopString, Tag("as text")]
    | Annotated[list[StopString], Field(max_length=limits.MAX_STOP_STRINGS, fail_fast=True), Tag("as texts")],
    Discriminator(
        _tag("as text", "as texts"),
        custom_error_type="stop",
        custom_error_message="must be a string or a list of strings",
    ),
]
PromptInput = Annotated[
    Annotated[NonEmptyText, Tag("as text")]
    | Annotated[list[NonEmptyText], Field(max_length=limits.MAX_CHOICES, fail_fast=True), Tag("as texts")]
    | Annotated[TokenList, Tag("as tokens")]
    | Annotated[list[TokenList], Field(max_length=limits.MAX_CHOICES, fail_fast=True), Tag("as token lists")],
    Discriminator(
        _prompt_tag,
        custom_error_type="prompt",
        custom_error_message="must be a string, a list of strings, a list of token ids or a list of those, not empty",
    ),
]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("as text")] | Annotated[NamedTool, Tag("as tool")],
    Discriminator(
        _choice_tag,
        custom_error_type="tool_choice",
        custom_error_message="must be none, auto, required or a named function",
    ),
]
LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-limits.MAX_LOGIT_BIAS, le=limits.MAX_LOGIT_BIAS)]],
    BeforeValidator(_reject_odd_token_ids),
]


class Message(StrictBody):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_call_id: str | None = None
    # Null or empty in what OpenAI's client gives back of an earlier answer.
    refusal: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: Annotated[list[CalledTool], Field(max_length=limits.MAX_TOOLS, fail_fast=True)] | None = None
    annotations: Annotated[None, _default_only([])] = None


class Prediction(StrictBody):
    type: Literal["content"]
    content: Content


class StreamOptions(StrictBody):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: Annotated[None, _default_only(False)] = None


class _CommonBody(StrictBody):
    model: Annotated[str, Field(min_length=1, max_length=limits.MAX_MODEL_CHARACTERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=limits.MAX_CHOICES)] | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(ge=limits.MIN_SEED, le=limits.MAX_SEED)] | None = None
    temperature: Annotated[float, Field(ge=0, le=limits.MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-limits.MAX_PENALTY, le=limits.MAX_PENALTY)] | None = None
    presence_penalty: Annotated[float, Field(ge=-limits.MAX_PENALTY, le=limits.MAX_PENALTY)] | None = None

    # vLLM's
    top_k: Annotated[int, Field(ge=-1, le=limits.MAX_TOKEN)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: (
        Annotated[float, Field(ge=limits.MIN_REPETITION_PENALTY, le=limits.MAX_REPETITION_PENALTY)] | None
    ) = None
    min_tokens: Annotated[int, Field(ge=0, le=limits.MAX_TOKEN)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=limits.MAX_STOP_TOKEN_IDS, fail_fast=True)] | None = None
    return_token_ids: bool | None = None
    logit_bias: LogitBias | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: GuidedJson | None = None
    guided_regex: GrammarText | None = None
    guided_choice: GrammarChoices | None = None
    guided_grammar: GrammarText | None = None

    # ours
    speculation: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")] | None = None

    # inert
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    # unsupported
    store: Annotated[None, _default_only(False)] = None


class ChatBody(_CommonBody):
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=limits.MAX_CHAT_LOGPROBS)] | None = None

    tools: Annotated[list[ToolDefinition], Field(max_length=limits.MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None

    # unsupported
    functions: Annotated[None, _default_only([])] = None
    function_call: Annotated[None, _default_only("none")] = None
    modalities: Annotated[None, _default_only(["text"], [])] = None
    audio: Unsupported = None
    reasoning_effort: Annotated[None, _default_only("none")] = None
    verbosity: Annotated[None, _default_only("medium")] = None
    web_search_options: Unsupported = None
    moderation: Unsupported = None
    echo: Annotated[None, _default_only(False)] = None


class CompletionBody(_CommonBody):
    prompt: Annotated[PromptInput, BeforeValidator(_reject_null)]
    logprobs: Annotated[int, Field(ge=0, le=limits.MAX_COMPLETION_LOGPROBS)] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=limits.MAX_TOKEN)] | None = None
    best_of: Annotated[int, Field(ge=1, le=limits.MAX_CHOICES)] | None = None
    echo: bool | None = None

    # unsupported
    suffix: Annotated[None, _default_only("")] = None
