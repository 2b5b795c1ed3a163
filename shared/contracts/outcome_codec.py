"""Outcomes as protobuf bytes and back. Knows the wire; unknown fields are skipped, bad bytes are `PoisonMessage`."""

from shared.contracts.events import (
    ChoiceResult,
    ErrorBody,
    FinishReason,
    InferenceOutcome,
    Outcome,
    TokenLogprob,
    Usage,
)
from shared.contracts.generated.inference.v1 import requests_pb2, results_pb2
from shared.contracts.identifiers import RequestId
from shared.contracts.protobuf_wire import EnumTable, encoded, optional, parsed
from shared.contracts.request_codec import tool_call, tool_call_message
from shared.contracts.requests import RequestKind

_KINDS = EnumTable(RequestKind, requests_pb2.RequestKind, "REQUEST_KIND")
_OUTCOMES = EnumTable(Outcome, results_pb2.Outcome, "OUTCOME")
_FINISH_REASONS = EnumTable(FinishReason, results_pb2.FinishReason, "FINISH_REASON")


def _logprob_message(token: TokenLogprob) -> results_pb2.TokenLogprob:
    return results_pb2.TokenLogprob(
        token_id=token.token_id,
        text=token.text,
        logprob=token.logprob,
        top=[
            results_pb2.Alternative(token_id=token_id, text=text, logprob=logprob)
            for token_id, text, logprob in token.top
        ],
    )


def _logprob(message: results_pb2.TokenLogprob) -> TokenLogprob:
    top = tuple((other.token_id, other.text, other.logprob) for other in message.top)
    return TokenLogprob(token_id=message.token_id, text=message.text, logprob=optional(message, "logprob"), top=top)


def _choice_message(choice: ChoiceResult) -> results_pb2.ChoiceResult:
    message = results_pb2.ChoiceResult(
        index=choice.index,
        text=choice.text,
        token_ids=choice.token_ids,
        finish_reason=_FINISH_REASONS.number(choice.finish_reason),
        tool_calls=[tool_call_message(call) for call in choice.tool_calls],
    )
    for field in ("logprobs", "prompt_logprobs"):
        if (logprobs := getattr(choice, field)) is not None:
            tokens = [_logprob_message(token) for token in logprobs]
            getattr(message, field).CopyFrom(results_pb2.TokenLogprobs(tokens=tokens))
    return message


def _logprobs(message: results_pb2.ChoiceResult, field: str) -> tuple[TokenLogprob, ...] | None:
    return tuple(map(_logprob, getattr(message, field).tokens)) if message.HasField(field) else None


def _choice(message: results_pb2.ChoiceResult) -> ChoiceResult:
    return ChoiceResult(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=_FINISH_REASONS.optional_member(message.finish_reason),
        logprobs=_logprobs(message, "logprobs"),
        prompt_logprobs=_logprobs(message, "prompt_logprobs"),
        tool_calls=tuple(tool_call(call) for call in message.tool_calls),
    )


def encode_outcome(outcome: InferenceOutcome) -> bytes:
    message = results_pb2.InferenceOutcome(
        request_id=outcome.request_id,
        outcome=_OUTCOMES.number(outcome.outcome),
        kind=_KINDS.number(outcome.kind),
        model=outcome.model,
        created_seconds=outcome.created_seconds,
        choices=[_choice_message(choice) for choice in outcome.choices],
        return_token_ids=outcome.return_token_ids,
        wants_logprobs=outcome.wants_logprobs,
    )
    if (usage := outcome.usage) is not None:
        message.usage.CopyFrom(
            results_pb2.Usage(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                accepted_prediction_tokens=usage.accepted_prediction_tokens,
                rejected_prediction_tokens=usage.rejected_prediction_tokens,
            )
        )
    if (error := outcome.error) is not None:
        message.error.CopyFrom(
            results_pb2.ErrorBody(message=error.message, type=error.type, code=error.code, param=error.param)
        )
    return encoded(message)


def _usage(message: results_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        cached_tokens=message.cached_tokens,
        accepted_prediction_tokens=message.accepted_prediction_tokens,
        rejected_prediction_tokens=message.rejected_prediction_tokens,
    )


def _error(message: results_pb2.ErrorBody) -> ErrorBody:
    return ErrorBody(message=message.message, type=message.type, code=message.code, param=optional(message, "param"))


def decode_outcome(value: bytes | None) -> InferenceOutcome:
    message = parsed(results_pb2.InferenceOutcome(), value)
    return InferenceOutcome(
        request_id=RequestId(message.request_id),
        outcome=_OUTCOMES.member(message.outcome),
        kind=_KINDS.member(message.kind),
        model=message.model,
        created_seconds=message.created_seconds,
        choices=tuple(_choice(choice) for choice in message.choices),
        usage=_usage(message.usage) if message.HasField("usage") else None,
        error=_error(message.error) if message.HasField("error") else None,
        return_token_ids=message.return_token_ids,
        wants_logprobs=message.wants_logprobs,
    )
