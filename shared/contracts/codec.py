"""Contracts as protobuf bytes and back; the only module that touches the generated classes.

Knows the wire and nothing of what the values mean: ranges are checked where requests are read
(`shared/openai/decoding.py`). Bytes that are no such message raise `PoisonMessage` with the reason. Encoding is
deterministic. A field unknown to this version is skipped on decode; nothing that we forward is re-encoded.
"""

import json
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from shared.contracts.errors import PoisonMessage
from shared.contracts.events import (
    ChoiceResult,
    ErrorBody,
    FinishReason,
    InferenceOutcome,
    Outcome,
    TokenLogprob,
    Usage,
)
from shared.contracts.fleet import (
    FleetCommand,
    FleetCommandKind,
    FleetEvent,
    FleetEventKind,
    Heartbeat,
    WorkerState,
)
from shared.contracts.generated.fleet.v1 import fleet_pb2
from shared.contracts.generated.inference.v1 import cancellations_pb2, requests_pb2, results_pb2
from shared.contracts.identifiers import Incarnation, RequestId, WorkerId, is_request_id
from shared.contracts.requests import Cancellation, ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters

MessageType = TypeVar("MessageType", bound=Message)

_UNSPECIFIED = 0
_DEFAULT_SAMPLING = SamplingParameters()


class _EnumTable:
    """Members of one of our enumerations and their numbers on the wire, matched by name."""

    def __init__(self, members: type[StrEnum], wire: Any, prefix: str) -> None:
        self._name = wire.DESCRIPTOR.name
        self._numbers = {member: wire.Value(f"{prefix}_{member.name}") for member in members}
        self._members = {number: member for member, number in self._numbers.items()}

    def number(self, member: StrEnum | None) -> Any:
        return _UNSPECIFIED if member is None else self._numbers[member]

    def optional_member(self, number: int) -> Any:
        return None if number == _UNSPECIFIED else self.member(number)

    def member(self, number: int) -> Any:
        member = self._members.get(number)
        if member is None:
            raise PoisonMessage(f"{number} is no {self._name}")
        return member


_KINDS = _EnumTable(RequestKind, requests_pb2.RequestKind, "REQUEST_KIND")
_OUTCOMES = _EnumTable(Outcome, results_pb2.Outcome, "OUTCOME")
_FINISH_REASONS = _EnumTable(FinishReason, results_pb2.FinishReason, "FINISH_REASON")
_WORKER_STATES = _EnumTable(WorkerState, fleet_pb2.WorkerState, "WORKER_STATE")
_EVENT_KINDS = _EnumTable(FleetEventKind, fleet_pb2.FleetEventKind, "FLEET_EVENT_KIND")
_COMMAND_KINDS = _EnumTable(FleetCommandKind, fleet_pb2.FleetCommandKind, "FLEET_COMMAND_KIND")


def _encoded(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _parsed(message: MessageType, value: bytes | None) -> MessageType:
    name = message.DESCRIPTOR.name
    if value is None:
        raise PoisonMessage(f"the record has no value where a protobuf {name} was expected")
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise PoisonMessage(f"the value is no protobuf {name}") from error
    return message


def _optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def _sampling_message(sampling: SamplingParameters, *, has_own_seed: bool) -> requests_pb2.SamplingParameters:
    return requests_pb2.SamplingParameters(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        seed=sampling.seed if has_own_seed else None,
        n=sampling.n,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        ignore_eos=sampling.ignore_eos,
        logprobs=sampling.logprobs,
    )


def _with_default(message: requests_pb2.SamplingParameters, field: str) -> Any:
    return getattr(message if message.HasField(field) else _DEFAULT_SAMPLING, field)


def _sampling(message: requests_pb2.SamplingParameters) -> SamplingParameters:
    return SamplingParameters(
        temperature=_with_default(message, "temperature"),
        top_p=_with_default(message, "top_p"),
        top_k=message.top_k,
        min_p=message.min_p,
        repetition_penalty=_with_default(message, "repetition_penalty"),
        frequency_penalty=message.frequency_penalty,
        presence_penalty=message.presence_penalty,
        seed=message.seed,
        n=_with_default(message, "n"),
        max_tokens=_optional(message, "max_tokens"),
        min_tokens=message.min_tokens,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        logprobs=_optional(message, "logprobs"),
    )


def _prompt_message(prompt: Prompt) -> requests_pb2.Prompt:
    if prompt.token_ids is not None:
        return requests_pb2.Prompt(token_ids=requests_pb2.TokenIds(ids=prompt.token_ids))
    return requests_pb2.Prompt(text=prompt.text)


def _prompt(message: requests_pb2.Prompt) -> Prompt:
    if message.WhichOneof("content") == "token_ids":
        return Prompt(token_ids=tuple(message.token_ids.ids))
    return Prompt(text=message.text)


def encode_request(request: InferenceRequest) -> bytes:
    """The seed travels only when it is the request's own: a derived one is derived again."""
    return _encoded(
        requests_pb2.InferenceRequested(
            kind=_KINDS.number(request.kind),
            model=request.model,
            messages=[
                requests_pb2.ChatMessage(role=message.role, content=message.content, name=message.name)
                for message in request.messages
            ],
            prompts=[_prompt_message(prompt) for prompt in request.prompts],
            sampling=_sampling_message(request.sampling, has_own_seed=request.has_own_seed),
            stream=request.stream,
            include_usage=request.include_usage,
            return_token_ids=request.return_token_ids,
        )
    )


def decode_request(value: bytes | None) -> InferenceRequest:
    message = _parsed(requests_pb2.InferenceRequested(), value)
    told_kind = RequestKind.COMPLETION if message.prompts else RequestKind.CHAT
    return InferenceRequest(
        kind=_KINDS.optional_member(message.kind) or told_kind,
        model=_optional(message, "model"),
        messages=tuple(
            ChatMessage(role=part.role, content=part.content, name=_optional(part, "name")) for part in message.messages
        ),
        prompts=tuple(_prompt(prompt) for prompt in message.prompts),
        sampling=_sampling(message.sampling),
        has_own_seed=message.sampling.HasField("seed"),
        stream=message.stream,
        include_usage=message.include_usage,
        return_token_ids=message.return_token_ids,
    )


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
    return TokenLogprob(token_id=message.token_id, text=message.text, logprob=message.logprob, top=top)


def _choice_message(choice: ChoiceResult) -> results_pb2.ChoiceResult:
    message = results_pb2.ChoiceResult(
        index=choice.index,
        text=choice.text,
        token_ids=choice.token_ids,
        finish_reason=_FINISH_REASONS.number(choice.finish_reason),
    )
    if choice.logprobs is not None:
        tokens = [_logprob_message(token) for token in choice.logprobs]
        message.logprobs.CopyFrom(results_pb2.TokenLogprobs(tokens=tokens))
    return message


def _choice(message: results_pb2.ChoiceResult) -> ChoiceResult:
    has_logprobs = message.HasField("logprobs")
    return ChoiceResult(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=_FINISH_REASONS.optional_member(message.finish_reason),
        logprobs=tuple(_logprob(token) for token in message.logprobs.tokens) if has_logprobs else None,
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
            )
        )
    if (error := outcome.error) is not None:
        message.error.CopyFrom(
            results_pb2.ErrorBody(message=error.message, type=error.type, code=error.code, param=error.param)
        )
    return _encoded(message)


def _usage(message: results_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        cached_tokens=message.cached_tokens,
    )


def _error(message: results_pb2.ErrorBody) -> ErrorBody:
    return ErrorBody(message=message.message, type=message.type, code=message.code, param=_optional(message, "param"))


def decode_outcome(value: bytes | None) -> InferenceOutcome:
    message = _parsed(results_pb2.InferenceOutcome(), value)
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


def encode_cancellation(request_id: RequestId, tenant: str | None, reason: str) -> bytes:
    return _encoded(cancellations_pb2.Cancellation(request_id=request_id, tenant=tenant, reason=reason))


def decode_cancellation(value: bytes | None) -> Cancellation:
    """Reads protobuf or plain JSON (which no Cancellation begins like). Ids may be OpenAI's, `chatcmpl-<id>`."""
    if value is not None and value.lstrip()[:1] == b"{":
        return _cancellation_from_json(value)
    message = _parsed(cancellations_pb2.Cancellation(), value)
    return Cancellation(
        request_id=_request_id(message.request_id),
        tenant=_optional(message, "tenant"),
        reason=message.reason,
    )


def _request_id(text: str) -> RequestId:
    bare = text.removeprefix("chatcmpl-").removeprefix("cmpl-")
    if not is_request_id(bare):
        raise PoisonMessage("request_id of a cancellation is not 32 hexadecimal digits", param="request_id")
    return RequestId(bare)


def _cancellation_from_json(value: bytes) -> Cancellation:
    try:
        body = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise PoisonMessage("the cancellation is neither a protobuf Cancellation nor JSON") from error
    request_id, tenant, reason = body.get("request_id"), body.get("tenant"), body.get("reason") or ""
    if not isinstance(request_id, str) or not isinstance(tenant, str | None) or not isinstance(reason, str):
        raise PoisonMessage("request_id, tenant and reason of a cancellation are strings", param="request_id")
    for text in (tenant or "", reason):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PoisonMessage("tenant and reason of a cancellation are Unicode text")
    return Cancellation(request_id=_request_id(request_id), tenant=tenant, reason=reason)


_HEARTBEAT_SCALARS = (
    "worker_id", "incarnation", "sequence_number", "sent_at_ms", "pool", "models", "fingerprint",
    "max_model_tokens", "running_requests", "waiting_requests", "max_running_requests", "kv_blocks_total",
    "kv_blocks_free", "kv_block_tokens", "output_tokens_per_second", "outstanding_tokens", "last_poll_age_ms",
    "oldest_unfinished_age_ms", "device", "dtype", "version",
)  # fmt: skip


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    return _encoded(
        fleet_pb2.Heartbeat(
            state=_WORKER_STATES.number(heartbeat.state),
            partitions=[
                fleet_pb2.PartitionHeld(topic=topic, partition=partition) for topic, partition in heartbeat.partitions
            ],
            **{field: getattr(heartbeat, field) for field in _HEARTBEAT_SCALARS},
        )
    )


def decode_heartbeat(value: bytes | None) -> Heartbeat:
    message = _parsed(fleet_pb2.Heartbeat(), value)
    scalars = {field: getattr(message, field) for field in _HEARTBEAT_SCALARS}
    return Heartbeat(
        state=_WORKER_STATES.member(message.state),
        partitions=tuple((held.topic, held.partition) for held in message.partitions),
        **(scalars | {"models": tuple(message.models)}),
    )


def encode_fleet_event(event: FleetEvent) -> bytes:
    return _encoded(
        fleet_pb2.FleetEvent(
            kind=_EVENT_KINDS.number(event.kind),
            worker_id=event.worker_id,
            incarnation=event.incarnation,
            occurred_at_ms=event.occurred_at_ms,
            detail=event.detail,
        )
    )


def decode_fleet_event(value: bytes | None) -> FleetEvent:
    message = _parsed(fleet_pb2.FleetEvent(), value)
    return FleetEvent(
        kind=_EVENT_KINDS.member(message.kind),
        worker_id=WorkerId(message.worker_id),
        incarnation=Incarnation(message.incarnation) if message.HasField("incarnation") else None,
        occurred_at_ms=message.occurred_at_ms,
        detail=message.detail,
    )


def encode_fleet_command(command: FleetCommand) -> bytes:
    return _encoded(
        fleet_pb2.FleetCommand(
            kind=_COMMAND_KINDS.number(command.kind),
            worker_id=command.worker_id,
            issued_at_ms=command.issued_at_ms,
            reason=command.reason,
        )
    )


def decode_fleet_command(value: bytes | None) -> FleetCommand:
    message = _parsed(fleet_pb2.FleetCommand(), value)
    return FleetCommand(
        kind=_COMMAND_KINDS.member(message.kind),
        worker_id=WorkerId(message.worker_id),
        issued_at_ms=message.issued_at_ms,
        reason=message.reason,
    )
