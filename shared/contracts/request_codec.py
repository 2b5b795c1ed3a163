"""Requests and cancellations as protobuf bytes and back.

Knows the wire and nothing of what the values mean: ranges are checked where requests are read
(`shared/openai/decoding.py`). Bytes that are no such message raise `PoisonMessage` with the reason. Encoding is
deterministic. A field unknown to this version is skipped on decode; nothing that we forward is re-encoded.
"""

import json
from typing import Any

from shared.contracts.errors import PoisonMessage
from shared.contracts.generated.inference.v1 import cancellations_pb2, requests_pb2
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.identifiers import RequestId, is_request_id
from shared.contracts.protobuf_wire import EnumTable, encoded, optional, parsed
from shared.contracts.requests import Cancellation, ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool, ToolCall, ToolChoice

_DEFAULT_SAMPLING = SamplingParameters()
_KINDS = EnumTable(RequestKind, requests_pb2.RequestKind, "REQUEST_KIND")
_GRAMMAR_KINDS = EnumTable(GrammarKind, requests_pb2.GrammarKind, "GRAMMAR_KIND")
_TOOL_CHOICES = EnumTable(ToolChoice, requests_pb2.ToolChoice, "TOOL_CHOICE")
_GRAMMAR_FIELD = "grammar"


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
        logit_bias=dict(sampling.logit_bias),
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
        max_tokens=optional(message, "max_tokens"),
        min_tokens=message.min_tokens,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        logprobs=optional(message, "logprobs"),
        logit_bias=tuple(sorted(message.logit_bias.items())),
    )


def _prompt_message(prompt: Prompt) -> requests_pb2.Prompt:
    if prompt.token_ids is not None:
        return requests_pb2.Prompt(token_ids=requests_pb2.TokenIds(ids=prompt.token_ids))
    return requests_pb2.Prompt(text=prompt.text)


def _prompt(message: requests_pb2.Prompt) -> Prompt:
    if message.WhichOneof("content") == "token_ids":
        return Prompt(token_ids=tuple(message.token_ids.ids))
    return Prompt(text=message.text)


def tool_call_message(call: ToolCall) -> requests_pb2.ToolCall:
    return requests_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments)


def tool_call(message: requests_pb2.ToolCall) -> ToolCall:
    return ToolCall(id=message.id, name=message.name, arguments=message.arguments)


def _chat_message(message: ChatMessage) -> requests_pb2.ChatMessage:
    return requests_pb2.ChatMessage(
        role=message.role,
        content=message.content,
        name=message.name,
        tool_calls=[tool_call_message(call) for call in message.tool_calls],
        tool_call_id=message.tool_call_id,
    )


def _chat(message: requests_pb2.ChatMessage) -> ChatMessage:
    return ChatMessage(
        role=message.role,
        content=message.content,
        name=optional(message, "name"),
        tool_calls=tuple(tool_call(call) for call in message.tool_calls),
        tool_call_id=optional(message, "tool_call_id"),
    )


def _tool_message(tool: Tool) -> requests_pb2.Tool:
    return requests_pb2.Tool(name=tool.name, description=tool.description, parameters=tool.parameters)


def _tool(message: requests_pb2.Tool) -> Tool:
    return Tool(
        name=message.name, description=optional(message, "description"), parameters=optional(message, "parameters")
    )


def _grammar_message(grammar: Grammar | None) -> requests_pb2.Grammar | None:
    if grammar is None:
        return None
    return requests_pb2.Grammar(kind=_GRAMMAR_KINDS.number(grammar.kind), text=grammar.text, field=grammar.field)


def _grammar(message: requests_pb2.Grammar) -> Grammar:
    return Grammar(kind=_GRAMMAR_KINDS.member(message.kind), text=message.text, field=message.field or _GRAMMAR_FIELD)


def encode_request(request: InferenceRequest) -> bytes:
    """The seed travels only when it is the request's own: a derived one is derived again."""
    return encoded(
        requests_pb2.InferenceRequested(
            kind=_KINDS.number(request.kind),
            model=request.model,
            messages=[_chat_message(message) for message in request.messages],
            prompts=[_prompt_message(prompt) for prompt in request.prompts],
            sampling=_sampling_message(request.sampling, has_own_seed=request.has_own_seed),
            stream=request.stream,
            include_usage=request.include_usage,
            return_token_ids=request.return_token_ids,
            echo=request.echo,
            best_of=request.best_of,
            grammar=_grammar_message(request.grammar),
            tools=[_tool_message(tool) for tool in request.tools],
            tool_choice=_TOOL_CHOICES.number(None if request.tool_choice is ToolChoice.AUTO else request.tool_choice),
            tool_choice_name=request.tool_choice_name,
            parallel_tool_calls=None if request.parallel_tool_calls else False,
            speculation=request.speculation,
            prediction=request.prediction,
        )
    )


def decode_request(value: bytes | None) -> InferenceRequest:
    message = parsed(requests_pb2.InferenceRequested(), value)
    told_kind = RequestKind.COMPLETION if message.prompts else RequestKind.CHAT
    return InferenceRequest(
        kind=_KINDS.optional_member(message.kind) or told_kind,
        model=optional(message, "model"),
        messages=tuple(_chat(part) for part in message.messages),
        prompts=tuple(_prompt(prompt) for prompt in message.prompts),
        sampling=_sampling(message.sampling),
        has_own_seed=message.sampling.HasField("seed"),
        stream=message.stream,
        include_usage=message.include_usage,
        return_token_ids=message.return_token_ids,
        echo=message.echo,
        best_of=optional(message, "best_of"),
        grammar=_grammar(message.grammar) if message.HasField("grammar") else None,
        tools=tuple(_tool(tool) for tool in message.tools),
        tool_choice=_TOOL_CHOICES.optional_member(message.tool_choice) or ToolChoice.AUTO,
        tool_choice_name=optional(message, "tool_choice_name"),
        parallel_tool_calls=not message.HasField("parallel_tool_calls") or message.parallel_tool_calls,
        speculation=optional(message, "speculation"),
        prediction=optional(message, "prediction"),
    )


def encode_cancellation(request_id: RequestId, tenant: str | None, reason: str) -> bytes:
    return encoded(cancellations_pb2.Cancellation(request_id=request_id, tenant=tenant, reason=reason))


def decode_cancellation(value: bytes | None) -> Cancellation:
    """Reads protobuf or plain JSON (which no Cancellation begins like). Ids may be OpenAI's, `chatcmpl-<id>`."""
    if value is not None and value.lstrip()[:1] == b"{":
        return _cancellation_from_json(value)
    message = parsed(cancellations_pb2.Cancellation(), value)
    return Cancellation(
        request_id=_request_id(message.request_id),
        tenant=optional(message, "tenant"),
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
