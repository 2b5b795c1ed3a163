"""Chunks as the payloads of server-sent events, read back by OpenAI's own client types."""

import json
from dataclasses import replace
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from shared.contracts.events import (
    Chunk,
    ErrorBody,
    FinishReason,
    Outcome,
    SealedOutcome,
    TokenLogprob,
    Usage,
)
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import ChatMessage, InferenceRequest, Prompt, RequestKind, WireFormat
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool, ToolChoice
from shared.openai.called_tools import call_id
from shared.openai.outcomes import render_error
from shared.openai.streaming import DONE, StreamRenderer

REQUEST_ID = RequestId("0123456789abcdef0123456789abcdef")
CHAT = InferenceRequest(
    kind=RequestKind.CHAT,
    model="smollm2",
    messages=(ChatMessage(role="user", content="x"),),
    sampling=SamplingParameters(),
    stream=True,
)
COMPLETION = replace(CHAT, kind=RequestKind.COMPLETION, messages=(), prompts=(Prompt(text="x"),))
USAGE = Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)
LOGPROBS = (TokenLogprob(token_id=1, text="He", logprob=-0.5, top=((1, "He", -0.5),)),)


def renderer(request: InferenceRequest, **changes: Any) -> StreamRenderer:
    return StreamRenderer(replace(request, **changes), REQUEST_ID, 'smol"lm', 1_764_000_000)


def chunk(text: str = "He", **changes: Any) -> Chunk:
    return replace(Chunk(choice=0, position=0, token_ids=(1,), text=text), **changes)


def chat_chunks(payloads: list[bytes]) -> list[ChatCompletionChunk]:
    return [ChatCompletionChunk.model_validate(json.loads(payload), strict=True) for payload in payloads]


def with_logprobs(request: InferenceRequest) -> InferenceRequest:
    return replace(request, sampling=replace(request.sampling, logprobs=1))


def sealed(outcome: Outcome, body: dict[str, Any]) -> SealedOutcome:
    return SealedOutcome(
        request_id=REQUEST_ID,
        outcome=outcome,
        wire_format=WireFormat.JSON,
        value=json.dumps(body).encode(),
        headers=(),
        reply_to=None,
        sealed_at_ms=1,
    )


class TestChat:
    def test_the_role_comes_first_and_once_per_choice(self) -> None:
        stream = renderer(CHAT)
        role, text = chat_chunks(stream.chunk(chunk("He")))
        assert (role.choices[0].delta.role, role.choices[0].delta.content) == ("assistant", "")
        assert (text.choices[0].delta.role, text.choices[0].delta.content) == (None, "He")
        assert len(stream.chunk(chunk("llo", position=1))) == 1
        other_role, _ = chat_chunks(stream.chunk(chunk("Hi", choice=1)))
        assert (other_role.choices[0].index, other_role.choices[0].delta.role) == (1, "assistant")

    def test_every_chunk_carries_the_same_envelope(self) -> None:
        payloads = renderer(CHAT).chunk(chunk(finish_reason=FinishReason.STOP))
        assert {(part.id, part.created, part.model, part.object) for part in chat_chunks(payloads)} == {
            (f"chatcmpl-{REQUEST_ID}", 1_764_000_000, 'smol"lm', "chat.completion.chunk")
        }

    def test_the_end_of_a_choice_is_a_chunk_of_its_own(self) -> None:
        role, text, end = chat_chunks(renderer(CHAT).chunk(chunk(finish_reason=FinishReason.LENGTH)))
        assert [part.choices[0].finish_reason for part in (role, text, end)] == [None, None, "length"]
        assert end.choices[0].delta.content is None

    def test_tokens_whose_text_is_held_back_show_nothing(self) -> None:
        stream = renderer(CHAT)
        stream.chunk(chunk())
        assert stream.chunk(chunk("", position=1)) == []

    def test_held_back_tokens_show_when_token_ids_are_asked_for(self) -> None:
        stream = renderer(CHAT, return_token_ids=True)
        stream.chunk(chunk())
        (payload,) = stream.chunk(chunk("", position=1, token_ids=(7, 8)))
        assert json.loads(payload)["choices"][0]["token_ids"] == [7, 8]

    def test_token_ids_of_all_payloads_are_those_of_the_chunk(self) -> None:
        payloads = renderer(CHAT, return_token_ids=True).chunk(chunk(token_ids=(4, 5), finish_reason=FinishReason.STOP))
        shown = [token for part in payloads for token in json.loads(part)["choices"][0]["token_ids"]]
        assert shown == [4, 5]

    def test_logprobs_come_with_their_text(self) -> None:
        _, text = chat_chunks(renderer(with_logprobs(CHAT)).chunk(chunk(logprobs=LOGPROBS)))
        assert text.choices[0].logprobs.content[0].token == "He"

    def test_logprobs_nobody_asked_for_are_not_shown(self) -> None:
        _, text = chat_chunks(renderer(CHAT).chunk(chunk(logprobs=LOGPROBS)))
        assert text.choices[0].logprobs is None

    @pytest.mark.parametrize("text", ['"', "\\", "\n", "\u2028", "\x00", "Grüße 世界 🙂", "</script>"])
    def test_any_text_arrives_as_it_was(self, text: str) -> None:
        payload = renderer(CHAT).chunk(chunk(text))[1]
        assert json.loads(payload)["choices"][0]["delta"]["content"] == text
        assert b"\n" not in payload


class TestCompletion:
    def test_a_chunk_is_one_payload_with_its_end(self) -> None:
        (payload,) = renderer(COMPLETION).chunk(chunk(choice=2, finish_reason=FinishReason.STOP))
        part = Completion.model_validate(json.loads(payload))
        assert (part.id, part.object) == (f"cmpl-{REQUEST_ID}", "text_completion")
        assert (part.choices[0].index, part.choices[0].text) == (2, "He")
        assert part.choices[0].finish_reason == "stop"

    def test_the_end_without_text_is_shown(self) -> None:
        (payload,) = renderer(COMPLETION).chunk(chunk("", token_ids=(), finish_reason=FinishReason.LENGTH))
        assert json.loads(payload)["choices"][0] == {
            "index": 0, "text": "", "logprobs": None, "finish_reason": "length",
        }  # fmt: skip

    def test_nothing_to_show_is_no_payload(self) -> None:
        assert renderer(COMPLETION).chunk(chunk("")) == []

    def test_text_offsets_go_on_from_chunk_to_chunk_of_each_choice(self) -> None:
        stream = renderer(with_logprobs(COMPLETION))
        offsets = [
            json.loads(stream.chunk(chunk(choice=choice, logprobs=LOGPROBS))[0])["choices"][0]["logprobs"][
                "text_offset"
            ]
            for choice in (0, 0, 1)
        ]
        assert offsets == [[0], [2], [0]]


class TestUsage:
    @pytest.mark.parametrize("request_", [CHAT, COMPLETION])
    def test_it_is_null_until_the_last_chunk(self, request_: InferenceRequest) -> None:
        stream = renderer(request_, include_usage=True)
        for payload in stream.chunk(chunk(finish_reason=FinishReason.STOP)):
            assert json.loads(payload)["usage"] is None
        last = json.loads(stream.usage(USAGE))
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == 5
        assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}

    def test_the_openai_client_reads_it(self) -> None:
        (part,) = chat_chunks([renderer(CHAT, include_usage=True).usage(USAGE)])
        assert part.usage.completion_tokens == 2

    def test_it_is_absent_when_not_asked_for(self) -> None:
        assert "usage" not in json.loads(renderer(CHAT).chunk(chunk())[0])


class TestTerminal:
    COMPLETED = sealed(Outcome.COMPLETED, {"usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    ERROR = ErrorBody(message="gone", type="server_error", code="worker_lost")

    def test_a_completed_stream_ends_with_done(self) -> None:
        assert renderer(CHAT).terminal(self.COMPLETED) == [DONE]

    def test_the_usage_comes_before_done(self) -> None:
        usage, done = renderer(CHAT, include_usage=True).terminal(self.COMPLETED)
        assert json.loads(usage)["usage"]["total_tokens"] == 5
        assert done == DONE

    def test_a_failed_stream_ends_with_the_error(self) -> None:
        failed = sealed(Outcome.FAILED, json.loads(render_error(self.ERROR)))
        error, done = renderer(CHAT, include_usage=True).terminal(failed)
        assert json.loads(error)["error"]["code"] == "worker_lost"
        assert done == DONE


class TestTools:
    TEXT = 'Wait.\n<tool_call>\n{"name": "look_up", "arguments": {"word": "sluice"}}\n</tool_call>'

    def rendered(self, *chunks: Chunk, **changes: Any) -> list[ChatCompletionChunk]:
        stream = renderer(CHAT, tools=(Tool(name="look_up"),), **changes)
        return chat_chunks([payload for one in chunks for payload in stream.chunk(one)])

    @pytest.mark.parametrize("size", [1, 5, 1_000])
    def test_calls_are_deltas_of_one_index_with_one_id(self, size: int) -> None:
        pieces = [self.TEXT[start : start + size] for start in range(0, len(self.TEXT), size)]
        chunks = [chunk(piece, position=number) for number, piece in enumerate(pieces)]
        last = chunk("", position=len(pieces), token_ids=(), finish_reason=FinishReason.STOP)
        deltas = [one.choices[0].delta for one in self.rendered(*chunks, last)]
        calls = [call for delta in deltas for call in delta.tool_calls or ()]
        assert "".join(delta.content or "" for delta in deltas) == "Wait."
        assert {call.index for call in calls} == {0}
        assert [call.id for call in calls if call.id] == [call_id(REQUEST_ID, 0, 0)]
        assert [call.function.name for call in calls if call.function and call.function.name] == ["look_up"]
        arguments = "".join(call.function.arguments or "" for call in calls if call.function)
        assert arguments == '{"word": "sluice"}'

    def test_a_choice_that_called_ends_with_tool_calls(self) -> None:
        ended = self.rendered(chunk(self.TEXT, finish_reason=FinishReason.STOP))
        assert ended[-1].choices[0].finish_reason == "tool_calls"

    def test_a_choice_that_was_cut_says_so(self) -> None:
        ended = self.rendered(chunk(self.TEXT[:-20], finish_reason=FinishReason.LENGTH))
        assert ended[-1].choices[0].finish_reason == "length"

    def test_a_choice_that_called_nothing_stops(self) -> None:
        ended = self.rendered(chunk("Nothing.", finish_reason=FinishReason.STOP))
        assert ended[-1].choices[0].finish_reason == "stop"
        assert "".join(one.choices[0].delta.content or "" for one in ended) == "Nothing."

    def test_without_a_choice_of_tools_the_text_stays_text(self) -> None:
        told = self.rendered(chunk(self.TEXT), tool_choice=ToolChoice.NONE)
        assert "".join(one.choices[0].delta.content or "" for one in told) == self.TEXT

    def test_choices_are_read_apart(self) -> None:
        half = len(self.TEXT) // 2
        chunks = [
            chunk(self.TEXT[:half]),
            chunk("Hello", choice=1),
            chunk(self.TEXT[half:], position=1, finish_reason=FinishReason.STOP),
            chunk(" you", choice=1, position=1, finish_reason=FinishReason.STOP),
        ]
        reasons = {
            one.choices[0].index: one.choices[0].finish_reason
            for one in self.rendered(*chunks)
            if one.choices[0].finish_reason
        }
        assert reasons == {0: "tool_calls", 1: "stop"}

    def test_log_probabilities_come_once_though_text_is_held_back(self) -> None:
        sampling = SamplingParameters(logprobs=1)
        told = self.rendered(
            chunk("<tool", logprobs=LOGPROBS), chunk("_call>", position=1, logprobs=LOGPROBS), sampling=sampling
        )
        assert sum(len(one.choices[0].logprobs.content or ()) for one in told if one.choices[0].logprobs) == 2


def test_a_prompt_is_scored_though_nothing_follows_it() -> None:
    stream = renderer(COMPLETION, echo=True, sampling=SamplingParameters(logprobs=0, max_tokens=0))
    prompt = (TokenLogprob(token_id=8, text="x", logprob=None), TokenLogprob(token_id=9, text="yz", logprob=-1.0))
    end = Chunk(
        choice=0, position=0, token_ids=(), text="xyz", finish_reason=FinishReason.LENGTH, prompt_logprobs=prompt
    )
    (only,) = stream.chunk(end)
    choice = json.loads(only)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("xyz", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]


def test_an_echoed_prompt_is_scored_in_the_first_payload_only() -> None:
    stream = renderer(COMPLETION, echo=True, sampling=SamplingParameters(logprobs=0))
    prompt = (TokenLogprob(token_id=8, text="x", logprob=None), TokenLogprob(token_id=9, text="yz", logprob=-1.0))
    (first,) = stream.chunk(chunk("xyzHe", logprobs=LOGPROBS, prompt_logprobs=prompt))
    (second,) = stream.chunk(chunk("He", position=1, logprobs=LOGPROBS))
    told = [json.loads(payload)["choices"][0]["logprobs"] for payload in (first, second)]
    assert told[0]["token_logprobs"] == [None, -1.0, -0.5]
    assert told[0]["top_logprobs"] == [None, {"yz": -1.0}, {"He": -0.5}]
    assert told[0]["text_offset"] == [0, 1, 3]
    assert told[1]["text_offset"] == [5]
