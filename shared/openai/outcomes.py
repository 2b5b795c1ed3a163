"""Terminal outcomes as OpenAI's response objects, and back from sealed bytes. Pure.

Streams are rendered by `streaming.py`; the two share the shape of log-probabilities and usage, written here.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from shared.contracts.errors import PlatformError, PoisonMessage, error_type
from shared.contracts.events import (
    ChoiceResult,
    ErrorBody,
    InferenceOutcome,
    Outcome,
    SealedOutcome,
    TokenLogprob,
    Usage,
)
from shared.contracts.outcome_codec import decode_outcome
from shared.contracts.requests import RequestKind, WireFormat
from shared.contracts.tools import ToolCall

LOWEST_LOGPROB = -9999.0
"""OpenAI's number for "as good as impossible"; JSON has no minus infinity."""

_encode = msgspec.json.encode
_CHAT_ID, _COMPLETION_ID = "chatcmpl-", "cmpl-"


def object_id(kind: RequestKind, request_id: str) -> str:
    return (_CHAT_ID if kind is RequestKind.CHAT else _COMPLETION_ID) + request_id


def request_id_of(name: str) -> str:
    """The request id in an object's id; a bare one is returned unchanged."""
    return name.removeprefix(_CHAT_ID).removeprefix(_COMPLETION_ID)


def outcome_error(error: PlatformError) -> ErrorBody:
    return ErrorBody(
        message=error.message,
        type=error_type(error.blame, error.code),
        code=error.code,
        param=error.param,
    )


def error_object(error: ErrorBody) -> dict[str, Any]:
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": fields}


def render_error(error: ErrorBody) -> bytes:
    return _encode(error_object(error))


def usage_object(usage: Usage) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    accepted, rejected = usage.accepted_prediction_tokens, usage.rejected_prediction_tokens
    if accepted or rejected:
        details = {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": rejected}
        found["completion_tokens_details"] = details
    return found


def _finite(logprob: float | None) -> float | None:
    return logprob if logprob is None or math.isfinite(logprob) else LOWEST_LOGPROB


def _chat_token(text: str, logprob: float | None) -> dict[str, Any]:
    return {
        "token": text,
        "logprob": _finite(logprob),
        "bytes": list(text.encode("utf-8", "replace")),
    }


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    content = [
        _chat_token(token.text, token.logprob)
        | {"top_logprobs": [_chat_token(text, logprob) for _, text, logprob in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], *, first_offset: int = 0) -> dict[str, Any]:
    """`first_offset` is where the first token begins in the choice's text, in characters.

    `top_logprobs` holds the chosen token too, so up to one more than asked for: as OpenAI documents.
    """
    offsets, offset = [], first_offset
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {text: _finite(logprob) for _, text, logprob in token.top} | {token.text: _finite(token.logprob)}
            if token.logprob is not None
            else None
            for token in tokens
        ],
        "text_offset": offsets,
    }


def call_object(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _chat_message(choice: ChoiceResult) -> dict[str, Any]:
    if not choice.tool_calls:
        return {"role": "assistant", "content": choice.text, "refusal": None}
    calls = [call_object(call) for call in choice.tool_calls]
    return {"role": "assistant", "content": choice.text or None, "refusal": None, "tool_calls": calls}


def _chat_choice(choice: ChoiceResult, *, wants_logprobs: bool) -> dict[str, Any]:
    return {
        "index": choice.index,
        "message": _chat_message(choice),
        "logprobs": chat_logprobs(choice.logprobs or ()) if wants_logprobs else None,
        "finish_reason": choice.finish_reason,
    }


def _completion_choice(choice: ChoiceResult, *, wants_logprobs: bool) -> dict[str, Any]:
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": completion_logprobs((*(choice.prompt_logprobs or ()), *(choice.logprobs or ())))
        if wants_logprobs
        else None,
        "finish_reason": choice.finish_reason,
    }


def _completed_object(outcome: InferenceOutcome) -> dict[str, Any]:
    is_chat = outcome.kind is RequestKind.CHAT
    render = _chat_choice if is_chat else _completion_choice
    choices = [render(choice, wants_logprobs=outcome.wants_logprobs) for choice in outcome.choices]
    if outcome.return_token_ids:
        for rendered, choice in zip(choices, outcome.choices, strict=True):
            rendered["token_ids"] = choice.token_ids
    completed = {
        "id": object_id(outcome.kind, outcome.request_id),
        "object": "chat.completion" if is_chat else "text_completion",
        "created": outcome.created_seconds,
        "model": outcome.model,
        "choices": choices,
    }
    return completed if outcome.usage is None else completed | {"usage": usage_object(outcome.usage)}


def render_outcome(outcome: InferenceOutcome) -> bytes:
    """A `chat.completion` or `text_completion` object, or `{"error": {...}}` with the usage so far. Deterministic."""
    if outcome.outcome is Outcome.COMPLETED:
        return _encode(_completed_object(outcome))
    assert outcome.error is not None, f"a {outcome.outcome} outcome without an error"
    if outcome.usage is None:
        return render_error(outcome.error)
    return _encode(error_object(outcome.error) | {"usage": usage_object(outcome.usage)})


def sealed_json(sealed: SealedOutcome) -> bytes:
    """The JSON object of a sealed outcome, whatever format it was sealed in: what HTTP answers with."""
    if sealed.wire_format is WireFormat.JSON:
        return sealed.value
    return render_outcome(decode_outcome(sealed.value))


class _SealedPromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class _SealedCompletionDetails(msgspec.Struct, frozen=True):
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


_NO_DRAFTS = _SealedCompletionDetails()


class _SealedUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _SealedPromptDetails | None = None
    completion_tokens_details: _SealedCompletionDetails = _NO_DRAFTS


class _SealedError(msgspec.Struct):
    message: str
    type: str
    code: str
    param: str | None = None


class _SealedObject(msgspec.Struct):
    """The parts of our own JSON results that a gateway has to look into."""

    usage: _SealedUsage | None = None
    error: _SealedError | None = None


_decode_sealed = msgspec.json.Decoder(_SealedObject).decode


def sealed_summary(sealed: SealedOutcome) -> tuple[Usage | None, ErrorBody | None]:
    """Usage and error of a sealed outcome. Raises PoisonMessage for bytes that no worker of ours sealed."""
    if sealed.wire_format is WireFormat.PROTOBUF:
        outcome = decode_outcome(sealed.value)
        return outcome.usage, outcome.error
    try:
        found = _decode_sealed(sealed.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PoisonMessage("The sealed outcome is not one of our result objects.") from error
    usage, failure = found.usage, found.error
    return (
        None
        if usage is None
        else Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0,
            accepted_prediction_tokens=usage.completion_tokens_details.accepted_prediction_tokens,
            rejected_prediction_tokens=usage.completion_tokens_details.rejected_prediction_tokens,
        ),
        None
        if failure is None
        else ErrorBody(message=failure.message, type=failure.type, code=failure.code, param=failure.param),
    )
