"""An OpenAI request body in JSON into an `InferenceRequest`. Pure; the same for HTTP and Kafka.

Two answers to a bad body: `PoisonMessage` when there is no JSON object to answer about, `InvalidRequest` with the
field's path (`messages[0].content`) when there is. Of a repeated key the last value counts, as in most parsers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from shared.contracts.errors import InvalidRequest, PoisonMessage
from shared.contracts.requests import ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import ToolCall, ToolChoice
from shared.openai.limits import check_combinations, positive_seed
from shared.openai.output_constraints import check_output, read_grammar, read_tool_choice, read_tools
from shared.openai.schema import TAG_MARK, UNSUPPORTED, ChatBody, CompletionBody, Content, Message, TextPart

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for /v1/completions; a chat runs up to the context's end."""

_PATH_LIMIT_CHARACTERS = 200
_WIDEST_OBJECT = 64
"""More keys than any object of ours has; validation reports every unknown one, 2 seconds for 3 MB of them."""
_FREE_OBJECTS = frozenset({"schema", "json", "guided_json", "parameters", "logit_bias"})
"""Objects of the caller's own shape: nothing in them is an unknown field; they have limits of their own."""
_PARTS_SEPARATOR = "\n"
"""Between the text parts of one message; vLLM's choice."""

_validate_chat = ChatBody.__pydantic_validator__.validate_python
_validate_completion = CompletionBody.__pydantic_validator__.validate_python


def parse_request(body: bytes, *, kind: RequestKind | None) -> InferenceRequest:
    """`kind` None: a body with `prompt` and no `messages` is a completion. Raises PoisonMessage, InvalidRequest."""
    fields = _json_object(body)
    _refuse_wide_objects(fields, ())
    if kind is None:
        is_completion = "prompt" in fields and "messages" not in fields
        kind = RequestKind.COMPLETION if is_completion else RequestKind.CHAT
    try:
        if kind is RequestKind.CHAT:
            request = _chat_request(_validate_chat(fields))
        else:
            request = _completion_request(_validate_completion(fields))
    except ValidationError as error:
        raise _first_refusal(error) from None
    check_combinations(request)
    check_output(request)
    return request


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise PoisonMessage(f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise PoisonMessage("The body is JSON but not an object.")
    return value


def _refuse_wide_objects(value: Any, location: tuple[int | str, ...]) -> None:
    """Follows objects and lists of objects; a list that begins otherwise fails at its first bad item."""
    if isinstance(value, dict):
        if len(value) > _WIDEST_OBJECT:
            path = _path(location) or "body"
            raise InvalidRequest(f"{path} has more than {_WIDEST_OBJECT} fields.", param=path)
        for name, inner in value.items():
            if name not in _FREE_OBJECTS and isinstance(inner, dict | list):
                _refuse_wide_objects(inner, (*location, name))
    elif value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            if isinstance(inner, dict):
                _refuse_wide_objects(inner, (*location, index))


def _path(location: Sequence[int | str]) -> str:
    """OpenAI's spelling: `messages[0].content`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith(TAG_MARK):
            path += f".{part}" if path else part
    return path[:_PATH_LIMIT_CHARACTERS]


def _first_refusal(error: ValidationError) -> InvalidRequest:
    detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = _path(detail["loc"])
    match detail["type"]:
        case "extra_forbidden":
            return InvalidRequest(f"Unknown field: {path}.", param=path)
        case "missing":
            return InvalidRequest(f"Missing required field: {path}.", param=path)
        case kind if kind == UNSUPPORTED:
            return InvalidRequest(f"{path} is not supported with this value.", param=path)
    return InvalidRequest(f"Invalid value for {path}: {detail['msg']}.", param=path)


def _chat_request(body: ChatBody) -> InferenceRequest:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    tokens, completion_tokens = body.max_tokens, body.max_completion_tokens
    if tokens is not None and completion_tokens is not None and tokens != completion_tokens:
        raise InvalidRequest("max_tokens and max_completion_tokens contradict each other.", param="max_tokens")
    request = _request(
        body,
        kind=RequestKind.CHAT,
        messages=tuple(_message(message, index) for index, message in enumerate(body.messages)),
        max_tokens=tokens if completion_tokens is None else completion_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    choice, name = read_tool_choice(body.tool_choice)
    return replace(
        request,
        tools=read_tools(body.tools),
        tool_choice=choice if body.tools or choice is not ToolChoice.NONE else ToolChoice.AUTO,
        tool_choice_name=name,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        prediction=None if body.prediction is None else _text(body.prediction.content),
    )


def _completion_request(body: CompletionBody) -> InferenceRequest:
    request = _request(
        body,
        kind=RequestKind.COMPLETION,
        prompts=_prompts(body.prompt),
        max_tokens=COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        logprobs=body.logprobs,
    )
    return replace(request, echo=bool(body.echo), best_of=body.best_of)


def _message(message: Message, index: int) -> ChatMessage:
    if message.content is None and not message.tool_calls:
        where = f"messages[{index}].content"
        raise InvalidRequest(f"Missing required field: {where}.", param=where)
    return ChatMessage(
        role=message.role,
        content="" if message.content is None else _text(message.content),
        name=message.name,
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in message.tool_calls or ()
        ),
        tool_call_id=message.tool_call_id,
    )


def _text(content: Content) -> str:
    if isinstance(content, str):
        return content
    parts: list[TextPart] = content
    return _PARTS_SEPARATOR.join(part.text for part in parts)


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[Prompt, ...]:
    if isinstance(prompt, str):
        return (Prompt(text=prompt),)
    if isinstance(prompt[0], int):
        return (Prompt(token_ids=tuple(prompt)),)
    return tuple(Prompt(text=part) if isinstance(part, str) else Prompt(token_ids=tuple(part)) for part in prompt)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _request(
    body: ChatBody | CompletionBody,
    *,
    kind: RequestKind,
    max_tokens: int | None,
    logprobs: int | None,
    messages: tuple[ChatMessage, ...] = (),
    prompts: tuple[Prompt, ...] = (),
) -> InferenceRequest:
    options = body.stream_options
    if options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
    return InferenceRequest(
        kind=kind,
        model=body.model,
        messages=messages,
        prompts=prompts,
        sampling=_sampling(body, max_tokens=max_tokens, logprobs=logprobs),
        has_own_seed=body.seed is not None,
        stream=bool(body.stream),
        include_usage=options is not None and bool(options.include_usage),
        return_token_ids=bool(body.return_token_ids),
        grammar=read_grammar(body),
        speculation=body.speculation,
    )


def _sampling(body: ChatBody | CompletionBody, *, max_tokens: int | None, logprobs: int | None) -> SamplingParameters:
    return SamplingParameters(
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        seed=positive_seed(body.seed or 0),
        n=body.n or 1,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        stop=_stops(body.stop),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        logit_bias=tuple(sorted((int(token_id), bias) for token_id, bias in (body.logit_bias or {}).items())),
    )
