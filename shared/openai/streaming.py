"""Chunks of one request as the payloads of OpenAI's server-sent events. Pure and fast: one call per token.

A payload is what stands after `data: `; framing, ids and pings are the gateway's. The envelope of a chunk is the
same for every one of a request and encoded once; only text, log-probabilities and token ids are encoded per chunk.
"""

from collections.abc import Iterable

import msgspec

from shared.contracts.events import Chunk, ErrorBody, FinishReason, SealedOutcome, TokenLogprob, Usage
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import InferenceRequest, RequestKind
from shared.contracts.tools import ToolCall
from shared.openai.called_tools import call_id, finish_reason_of, new_parser
from shared.openai.outcomes import (
    call_object,
    chat_logprobs,
    completion_logprobs,
    object_id,
    render_error,
    sealed_summary,
    usage_object,
)
from shared.openai.tool_calls import ArgumentsDelta, ContentDelta, Delta, ToolCallParser

DONE = b"[DONE]"

_encode = msgspec.json.encode
_FINISHED = {None: b"null"} | {reason: _encode(reason.value) for reason in FinishReason}
_ROLE_DELTA = b'{"role":"assistant","content":"","refusal":null}'
_EMPTY_DELTA = b"{}"


class StreamRenderer:
    """Renders the chunks of one request in order of position per choice, from the first on.

    A stream that is resumed further on is rendered from its first chunk all the same, the early payloads being
    thrown away: log-probabilities of completions carry text offsets, and the role is sent once per choice.
    """

    def __init__(self, request: InferenceRequest, request_id: RequestId, model: str, created_seconds: int) -> None:
        self._is_chat = request.kind is RequestKind.CHAT
        self._returns_token_ids = request.return_token_ids
        self._wants_logprobs = request.sampling.logprobs is not None
        self._includes_usage = request.include_usage
        object_name = "chat.completion.chunk" if self._is_chat else "text_completion"
        head = {
            "id": object_id(request.kind, request_id),
            "object": object_name,
            "created": created_seconds,
            "model": model,
        }
        self._head = _encode(head)[:-1] + b',"choices":['
        self._tail = b'}],"usage":null}' if self._includes_usage else b"}]}"
        self._with_role: set[int] = set()
        self._offsets: dict[int, int] = {}
        self._request = request
        self._request_id = request_id
        self._parsers: dict[int, ToolCallParser] = {}

    def chunk(self, chunk: Chunk) -> list[bytes]:
        """The payloads of one chunk: none while text is held back, two or three at a choice's ends."""
        if self._is_chat:
            return self._chat_payloads(chunk)
        payload = self._completion_payload(chunk)
        return [] if payload is None else [payload]

    def terminal(self, sealed: SealedOutcome) -> list[bytes]:
        """What ends the stream: the usage (when asked for) or the error, then `[DONE]`.

        Raises PoisonMessage when the sealed bytes are none of ours.
        """
        usage, error = sealed_summary(sealed)
        if error is not None:
            return [self.error(error), DONE]
        if self._includes_usage and usage is not None:
            return [self.usage(usage), DONE]
        return [DONE]

    def usage(self, usage: Usage) -> bytes:
        return self._head + b'],"usage":' + _encode(usage_object(usage)) + b"}"

    def error(self, error: ErrorBody) -> bytes:
        return render_error(error)

    def _has_something_to_show(self, chunk: Chunk) -> bool:
        if chunk.text:
            return True
        return bool((self._returns_token_ids and chunk.token_ids) or (self._wants_logprobs and chunk.logprobs))

    def _chat_payloads(self, chunk: Chunk) -> list[bytes]:
        index = b'{"index":%d,"delta":' % chunk.choice
        payloads = []
        if chunk.choice not in self._with_role:
            self._with_role.add(chunk.choice)
            payloads.append(self._assemble(index, _ROLE_DELTA, b"null", None, ()))
        if self._request.may_call_tools:
            return [*payloads, *self._tool_payloads(chunk, index)]
        if self._has_something_to_show(chunk):
            delta = b'{"content":' + _encode(chunk.text) + b"}"
            logprobs = b"null"
            if self._wants_logprobs and chunk.logprobs:
                logprobs = _encode(chat_logprobs(chunk.logprobs))
            payloads.append(self._assemble(index, delta, logprobs, None, chunk.token_ids))
        if chunk.finish_reason is not None:
            payloads.append(self._assemble(index, _EMPTY_DELTA, b"null", chunk.finish_reason, ()))
        return payloads

    def _tool_payloads(self, chunk: Chunk, index: bytes) -> list[bytes]:
        """Content and calls; log-probabilities and token ids go with the first of what the chunk brings."""
        parser = self._parsers.setdefault(chunk.choice, new_parser(self._request))
        found = parser.push(chunk.text)
        if chunk.finish_reason is not None:
            found += parser.finish()
        deltas = [self._delta(chunk.choice, one) for one in found]
        has_more = (self._returns_token_ids and chunk.token_ids) or (self._wants_logprobs and chunk.logprobs)
        if not deltas and has_more:
            deltas = [b'{"content":""}']
        logprobs = _encode(chat_logprobs(chunk.logprobs)) if self._wants_logprobs and chunk.logprobs else b"null"
        payloads = [
            self._assemble(index, delta, b"null" if number else logprobs, None, () if number else chunk.token_ids)
            for number, delta in enumerate(deltas)
        ]
        if chunk.finish_reason is not None:
            reason = finish_reason_of(chunk.finish_reason, parser.num_calls)
            payloads.append(self._assemble(index, _EMPTY_DELTA, b"null", reason, ()))
        return payloads

    def _delta(self, choice: int, delta: Delta) -> bytes:
        if isinstance(delta, ContentDelta):
            return _encode({"content": delta.text})
        if isinstance(delta, ArgumentsDelta):
            return _encode({"tool_calls": [{"index": delta.index, "function": {"arguments": delta.text}}]})
        call = ToolCall(id=call_id(self._request_id, choice, delta.index), name=delta.name, arguments="")
        return _encode({"tool_calls": [{"index": delta.index, **call_object(call)}]})

    def _completion_payload(self, chunk: Chunk) -> bytes | None:
        if not self._has_something_to_show(chunk) and chunk.finish_reason is None:
            return None
        index = b'{"index":%d,"text":' % chunk.choice
        logprobs = b"null"
        scored = (*(chunk.prompt_logprobs or ()), *(chunk.logprobs or ()))
        if self._wants_logprobs and scored:
            logprobs = self._completion_logprobs(chunk.choice, scored)
        return self._assemble(index, _encode(chunk.text), logprobs, chunk.finish_reason, chunk.token_ids)

    def _completion_logprobs(self, choice: int, tokens: tuple[TokenLogprob, ...]) -> bytes:
        first_offset = self._offsets.get(choice, 0)
        self._offsets[choice] = first_offset + sum(len(token.text) for token in tokens)
        return _encode(completion_logprobs(tokens, first_offset=first_offset))

    def _assemble(
        self,
        index: bytes,
        content: bytes,
        logprobs: bytes,
        finish_reason: FinishReason | None,
        token_ids: Iterable[int],
    ) -> bytes:
        tail = self._tail
        if self._returns_token_ids:
            tail = b',"token_ids":' + _encode(token_ids) + tail
        finished = _FINISHED[finish_reason]
        return b"".join((self._head, index, content, b',"logprobs":', logprobs, b',"finish_reason":', finished, tail))
