"""OpenAI bodies in, requests or named refusals out."""

import json
from typing import Any

import pytest

from shared.contracts.errors import InvalidRequest, PoisonMessage
from shared.contracts.requests import ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.openai.requests import parse_request

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> InferenceRequest:
    return parse_request(json.dumps({"messages": HELLO} | fields).encode(), kind=RequestKind.CHAT)


def completion(**fields: Any) -> InferenceRequest:
    return parse_request(json.dumps({"prompt": "Once"} | fields).encode(), kind=RequestKind.COMPLETION)


def refusal(parse: Any, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    return caught.value


def test_the_smallest_chat_has_the_defaults_of_openai() -> None:
    assert chat() == InferenceRequest(
        kind=RequestKind.CHAT,
        model=None,
        messages=(ChatMessage(role="user", content="hello"),),
        sampling=SamplingParameters(),
    )


def test_the_smallest_completion_gets_sixteen_tokens() -> None:
    assert completion() == InferenceRequest(
        kind=RequestKind.COMPLETION,
        model=None,
        prompts=(Prompt(text="Once"),),
        sampling=SamplingParameters(max_tokens=16),
    )


def test_every_sampling_field_arrives() -> None:
    given = {
        "temperature": 0.5, "top_p": 0.25, "top_k": 40, "min_p": 0.125, "repetition_penalty": 1.5,
        "frequency_penalty": -1.5, "presence_penalty": 1.25, "seed": 7, "n": 3, "max_tokens": 9,
        "min_tokens": 4, "ignore_eos": True,
    }  # fmt: skip
    extras = {"stop": ["a", "b"], "stop_token_ids": [1, 2], "logprobs": 5}
    request = completion(**given, **extras)
    assert request.sampling == SamplingParameters(**given, stop=("a", "b"), stop_token_ids=(1, 2), logprobs=5)
    assert request.has_own_seed


def test_null_is_the_default_of_every_optional_field() -> None:
    fields = [
        "model", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "stop", "seed",
        "temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "top_k",
        "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "return_token_ids", "user",
        "metadata", "store", "tools", "tool_choice", "response_format", "logit_bias", "prediction", "audio",
        "speculation", "modalities", "parallel_tool_calls", "functions", "function_call", "reasoning_effort",
    ]  # fmt: skip
    assert chat(**dict.fromkeys(fields)) == chat()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"messages": HELLO}, RequestKind.CHAT),
        ({"prompt": "Once"}, RequestKind.COMPLETION),
    ],
)
def test_without_an_endpoint_the_body_tells_its_kind(body: dict[str, Any], kind: RequestKind) -> None:
    assert parse_request(json.dumps(body).encode(), kind=None).kind is kind


def test_a_body_with_both_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(json.dumps({"messages": HELLO, "prompt": "Once"}).encode(), kind=None)
    assert caught.value.param == "prompt"


class TestInput:
    @pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
    def test_every_role_of_a_template_is_accepted(self, role: str) -> None:
        assert chat(messages=[{"role": role, "content": "x"}]).messages[0].role == role

    def test_text_parts_are_joined_by_lines(self) -> None:
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "one\ntwo"

    def test_an_answer_of_the_openai_client_can_be_given_back(self) -> None:
        answer = {
            "role": "assistant", "content": "hi", "refusal": None, "annotations": [], "audio": None,
            "function_call": None, "tool_calls": None,
        }  # fmt: skip
        assert chat(messages=[*HELLO, answer]).messages[1].content == "hi"

    @pytest.mark.parametrize(
        ("prompt", "prompts"),
        [
            ("a", (Prompt(text="a"),)),
            (["a", "b"], (Prompt(text="a"), Prompt(text="b"))),
            ([1, 2], (Prompt(token_ids=(1, 2)),)),
            ([[1, 2], [3]], (Prompt(token_ids=(1, 2)), Prompt(token_ids=(3,)))),
        ],
    )
    def test_a_prompt_has_four_forms(self, prompt: Any, prompts: tuple[Prompt, ...]) -> None:
        assert completion(prompt=prompt).prompts == prompts

    @pytest.mark.parametrize(
        ("prompt", "param"),
        [
            (None, "prompt"), ("", "prompt"), ([], "prompt"), ([[]], "prompt[0]"), (["a", ""], "prompt[1]"),
            ([1, "a"], "prompt[1]"), ([[1], ["a"]], "prompt[1][0]"), ({"text": "a"}, "prompt"), (7, "prompt"),
            ([-1], "prompt[0]"), ([1, 2**31], "prompt[1]"), ([True], "prompt[0]"), ([1.5], "prompt[0]"),
        ],
    )  # fmt: skip
    def test_a_bad_prompt_is_refused_by_its_path(self, prompt: Any, param: str) -> None:
        assert refusal(completion, prompt=prompt).param == param

    @pytest.mark.parametrize(
        ("messages", "param"),
        [
            ([], "messages"),
            ("hello", "messages"),
            ([{"role": "user"}], "messages[0].content"),
            ([{"role": "user", "content": None}], "messages[0].content"),
            ([{"role": "user", "content": []}], "messages[0].content"),
            ([*HELLO, {"role": "user", "content": 7}], "messages[1].content"),
            ([{"role": "wizard", "content": "x"}], "messages[0].role"),
            ([{"content": "x"}], "messages[0].role"),
            ([{"role": "user", "content": "x", "mood": "good"}], "messages[0].mood"),
            ([{"role": "assistant", "content": "x", "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
            ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
            ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ],
    )
    def test_a_bad_message_is_refused_by_its_path(self, messages: Any, param: str) -> None:
        assert refusal(chat, messages=messages).param == param

    def test_missing_messages_are_named(self) -> None:
        with pytest.raises(InvalidRequest, match="Missing required field: messages") as caught:
            parse_request(b"{}", kind=None)
        assert caught.value.param == "messages"


class TestRanges:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", 0), ("temperature", 2), ("top_p", 1), ("frequency_penalty", -2),
            ("presence_penalty", 2), ("n", 1), ("n", 128), ("max_tokens", 1), ("top_k", 0), ("min_p", 1),
            ("seed", -(2**63)), ("seed", 2**63 - 1), ("logprobs", 0), ("logprobs", 5), ("stop", ["x"] * 4),
        ],
    )  # fmt: skip
    def test_a_bound_itself_is_accepted(self, field: str, value: Any) -> None:
        assert completion(**{field: value}).kind is RequestKind.COMPLETION

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", -0.1), ("temperature", 2.01), ("temperature", "1"), ("temperature", True),
            ("top_p", 0), ("top_p", 1.01), ("frequency_penalty", -2.1), ("presence_penalty", 2.1), ("n", 0),
            ("n", 129), ("n", 1.0), ("n", "1"), ("n", True), ("max_tokens", 0), ("max_tokens", 2**31),
            ("max_tokens", -1), ("max_tokens", 10**400),
            ("seed", 2**63), ("seed", -(2**63) - 1), ("top_k", -2), ("min_p", 1.1),
            ("repetition_penalty", 0), ("repetition_penalty", 1e9), ("logprobs", 6), ("logprobs", True),
            ("stream", 1), ("stream", "true"), ("stop", 7), ("stop", ["x"] * 5), ("model", ""), ("model", 7),
            ("best_of", 0), ("best_of", 129),
            ("user", 7), ("metadata", {"a": 1}), ("stream_options", []), ("min_tokens", 17),
        ],
    )  # fmt: skip
    def test_beyond_it_the_field_is_named(self, field: str, value: Any) -> None:
        error = refusal(completion, **{field: value})
        assert error.param == field or error.param.startswith(f"{field}.")
        assert field in error.message

    @pytest.mark.parametrize(("value", "param"), [("", "stop"), (["a", ""], "stop[1]"), (["a", 1], "stop[1]")])
    def test_an_empty_stop_string_is_refused(self, value: Any, param: str) -> None:
        assert refusal(chat, stop=value).param == param

    def test_top_k_minus_one_is_off(self) -> None:
        assert chat(top_k=-1).sampling.top_k == 0

    def test_a_negative_seed_becomes_one_the_engine_can_hold(self) -> None:
        request = chat(seed=-1)
        assert request.sampling.seed == 2**63 - 1
        assert request.has_own_seed

    def test_a_seed_of_zero_is_the_callers_own(self) -> None:
        assert chat(seed=0).has_own_seed
        assert not chat().has_own_seed

    def test_choices_are_counted_over_all_prompts(self) -> None:
        assert completion(prompt=["a"] * 64, n=2).num_choices == 128
        assert refusal(completion, prompt=["a"] * 65, n=2).param == "n"
        assert refusal(completion, prompt=["a"] * 129).param == "prompt"

    def test_best_of_makes_more_choices_than_are_answered_with(self) -> None:
        request = completion(prompt=["a", "b"], n=2, best_of=5)
        assert (request.num_choices, request.sampling.n, request.keeps_the_best) == (10, 2, True)
        assert not completion(n=2, best_of=2, stream=True).keeps_the_best

    @pytest.mark.parametrize(
        "fields",
        [{"n": 3, "best_of": 2}, {"best_of": 2, "stream": True}, {"prompt": ["a"] * 65, "best_of": 2}],
    )
    def test_a_best_of_that_cannot_be_is_refused_by_name(self, fields: dict[str, Any]) -> None:
        assert refusal(completion, **fields).param == "best_of"

    def test_no_token_may_be_asked_for_only_by_who_has_the_prompt_echoed(self) -> None:
        assert completion(max_tokens=0, echo=True).sampling.max_tokens == 0
        assert refusal(completion, max_tokens=0, echo=False).param == "max_tokens"
        assert refusal(chat, max_tokens=0).param == "max_tokens"
        assert refusal(completion, max_tokens=0, echo=True, min_tokens=1).param == "min_tokens"

    def test_a_single_stop_string_is_a_list_of_one(self) -> None:
        assert chat(stop="END").sampling.stop == ("END",)


class TestChatOnly:
    def test_max_completion_tokens_is_the_newer_name(self) -> None:
        assert chat(max_completion_tokens=5).sampling.max_tokens == 5
        assert chat(max_tokens=5, max_completion_tokens=5).sampling.max_tokens == 5
        assert refusal(chat, max_tokens=4, max_completion_tokens=5).param == "max_tokens"

    @pytest.mark.parametrize(
        ("fields", "logprobs"),
        [
            ({"logprobs": True}, 0),
            ({"logprobs": True, "top_logprobs": 20}, 20),
            ({"logprobs": False}, None),
        ],
    )
    def test_logprobs_are_a_flag_and_a_number(self, fields: dict[str, Any], logprobs: int | None) -> None:
        assert chat(**fields).sampling.logprobs == logprobs

    def test_top_logprobs_need_the_flag(self) -> None:
        assert refusal(chat, top_logprobs=2).param == "top_logprobs"
        assert refusal(chat, logprobs=True, top_logprobs=21).param == "top_logprobs"


class TestStreaming:
    def test_usage_is_asked_for_in_the_options(self) -> None:
        options = {"include_usage": True, "include_obfuscation": False}
        request = chat(stream=True, stream_options=options)
        assert request.stream
        assert request.include_usage

    def test_options_without_a_stream_are_refused(self) -> None:
        assert refusal(chat, stream_options={"include_usage": True}).param == "stream_options"

    def test_an_unknown_option_is_refused_by_its_path(self) -> None:
        assert refusal(chat, stream=True, stream_options={"fast": True}).param == "stream_options.fast"


class TestUnsupported:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("functions", [{}]), ("function_call", "auto"),
            ("modalities", ["text", "audio"]), ("audio", {}),
            ("store", True), ("echo", True),
            ("reasoning_effort", "high"), ("web_search_options", {}),
        ],
    )  # fmt: skip
    def test_a_chat_that_needs_it_is_refused_by_name(self, field: str, value: Any) -> None:
        error = refusal(chat, **{field: value})
        assert error.param == field
        assert "not supported" in error.message

    @pytest.mark.parametrize(("field", "value"), [("suffix", "end"), ("store", True), ("tools", [])])
    def test_a_completion_that_needs_it_is_refused_by_name(self, field: str, value: Any) -> None:
        assert refusal(completion, **{field: value}).param == field

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("tools", []), ("tool_choice", "none"), ("response_format", {"type": "text"}), ("logit_bias", {}),
            ("modalities", ["text"]), ("store", False), ("parallel_tool_calls", True), ("user", "u"),
            ("metadata", {"a": "b"}), ("service_tier", "auto"), ("safety_identifier", "s"),
            ("prompt_cache_key", "k"),
        ],
    )  # fmt: skip
    def test_defaults_and_inert_fields_change_nothing(self, field: str, value: Any) -> None:
        assert chat(**{field: value}) == chat()

    def test_an_unknown_field_is_refused_by_name(self) -> None:
        assert refusal(chat, temprature=1).param == "temprature"

    def test_the_name_of_an_unknown_field_is_cut(self) -> None:
        assert len(refusal(chat, **{"x" * 10_000: 1}).param) == 200

    def test_an_unsupported_field_of_the_other_endpoint_is_unknown(self) -> None:
        assert refusal(completion, tools=[]).param == "tools"


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"[]", b"7", b"null", b'"text"', b"\x00", b"\xff\xfe", b"[" * 100_000,
        b'{"a":' * 100_000, b'{"messages": "\xff"}', b'{"user": "\\ud800"}', b'{"temperature": NaN}',
        b'{"temperature": -Infinity}', b"{} {}", b'{"a": 1,}',
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_poison(body: bytes) -> None:
    with pytest.raises(PoisonMessage, match="JSON"):
        parse_request(body, kind=None)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5_000, "1e-400e"])
def test_absurd_numbers_are_refused(number: str) -> None:
    body = b'{"prompt": "a", "temperature": %s}' % number.encode()
    with pytest.raises((InvalidRequest, PoisonMessage)):
        parse_request(body, kind=None)


def test_of_a_repeated_key_the_last_value_counts() -> None:
    request = parse_request(b'{"prompt": "a", "n": 2, "n": 3}', kind=None)
    assert request.sampling.n == 3


def test_one_error_is_reported_of_a_million() -> None:
    body = b'{"prompt": [' + b'"x", ' * 1 + b"7, " * 200_000 + b"7]}"
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body, kind=None)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"prompt": "x", %s}', "body"),
        ('{"messages": [{"role": "user", "content": "x"}, {%s}]}', "messages[1]"),
        ('{"messages": [{"role": "user", "content": [{%s}]}]}', "messages[0].content[0]"),
        ('{"prompt": "x", "metadata": {%s}}', "metadata"),
    ],
)
def test_a_hundred_thousand_fields_cost_one_look(body: str, param: str) -> None:
    many = ", ".join(f'"key{index}": 1' for index in range(100_000))
    with pytest.raises(InvalidRequest, match="more than 64 fields") as caught:
        parse_request((body % many).encode(), kind=None)
    assert caught.value.param == param


def test_a_prediction_and_a_way_to_speculate_are_read() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    request = chat(prediction={"type": "content", "content": parts}, speculation="prompt-lookup")
    assert request.speculation == "prompt-lookup"
    assert request.prediction is not None
    assert request.prediction.startswith("one")
    assert request.prediction.endswith("two")
    assert completion(speculation="none").speculation == "none"


@pytest.mark.parametrize("prediction", [{}, {"type": "content"}, {"type": "tokens", "content": "x"}])
def test_a_prediction_without_content_is_refused(prediction: dict[str, Any]) -> None:
    assert str(refusal(chat, prediction=prediction).param).startswith("prediction.")


def test_a_speculation_that_is_no_name_is_refused() -> None:
    assert refusal(chat, speculation="Über").param == "speculation"
