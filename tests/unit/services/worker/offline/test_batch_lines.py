import json
from typing import Any

import pytest

from services.worker.offline.batch_lines import (
    BatchLine,
    http_status,
    line_request_id,
    read_line,
    write_answer,
    write_failure,
)
from shared.contracts.errors import InvalidRequest, InvariantViolated, PromptTooLong, UnknownModel
from shared.contracts.requests import Prompt, RequestKind
from shared.openai.outcomes import outcome_error


def line(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "custom_id": "one",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "m", "prompt": "hi"},
        **changes,
    }
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def refused(text: bytes) -> BatchLine:
    read = read_line(1, text)
    assert read.request is None
    assert read.error is not None
    return read


def test_a_completion_is_read() -> None:
    read = read_line(1, line())
    assert read.error is None
    assert read.request is not None
    assert (read.custom_id, read.request.kind) == ("one", RequestKind.COMPLETION)
    assert read.request.prompts == (Prompt(text="hi"),)


def test_a_chat_is_read() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    read = read_line(1, line(url="/v1/chat/completions", body=body))
    assert read.request is not None
    assert (read.request.kind, read.request.messages[0].content) == (RequestKind.CHAT, "hi")


def test_token_ids_may_be_given_and_asked_for() -> None:
    read = read_line(1, line(body={"prompt": [1, 2, 3], "return_token_ids": True, "logprobs": 2}))
    assert read.request is not None
    assert read.request.prompts == (Prompt(token_ids=(1, 2, 3)),)
    assert read.request.return_token_ids
    assert read.request.sampling.logprobs == 2


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"custom_id": ...}, "custom_id"),
        ({"custom_id": 7}, "custom_id"),
        ({"custom_id": ""}, "custom_id"),
        ({"method": "GET"}, "method"),
        ({"method": ...}, "method"),
        ({"url": "/v1/embeddings"}, "url"),
        ({"url": ["/v1/completions"]}, "url"),
        ({"body": ...}, "body"),
        ({"body": "text"}, "body"),
        ({"extra": 1}, "extra"),
        ({"body": {"prompt": "x", "temperature": 99}}, "temperature"),
        ({"body": {"prompt": "x", "echo": 1}}, "echo"),
        ({"body": {"prompt": "x", "stream": True}}, "stream"),
        ({"body": {"prompt": "x", "max_tokens": 0}}, "max_tokens"),
        ({"body": {"prompt": "x", "no_such_field": 1}}, "no_such_field"),
        ({"body": {}}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], param: str) -> None:
    error = refused(line(**changes)).error
    assert error is not None
    assert (error.param, error.code) == (param, "invalid_request")


def test_an_answer_to_a_bad_body_still_has_its_custom_id() -> None:
    assert refused(line(body={"prompt": 3.5})).custom_id == "one"


@pytest.mark.parametrize("text", [b"not json", b"\xff\xfe", b"[1]", b'{"custom_id": "x"', b"[" * 100_000])
def test_a_line_that_is_no_object_is_answered_without_custom_id(text: bytes) -> None:
    read = refused(text)
    assert read.custom_id is None
    assert read.error is not None
    assert "The line is" in read.error.message


def test_equal_lines_at_different_places_are_different_requests() -> None:
    assert line_request_id(1, b"x") != line_request_id(2, b"x")
    assert line_request_id(1, b"x") == line_request_id(1, b"x")


def test_an_answer_has_openais_shape() -> None:
    read = read_line(3, line())
    answer = json.loads(write_answer(read, b'{"object": "text_completion"}'))
    assert answer == {
        "id": f"batch_req_{read.request_id}",
        "custom_id": "one",
        "response": {"status_code": 200, "request_id": read.request_id, "body": {"object": "text_completion"}},
        "error": None,
    }


def test_a_failure_stands_in_the_body_and_in_the_line() -> None:
    read = refused(line(body={"prompt": "x", "top_p": 7}))
    assert read.error is not None
    answer = json.loads(write_failure(read, read.error))
    assert answer["response"]["status_code"] == 400
    assert answer["response"]["body"] == {"error": answer["error"]}
    assert answer["error"]["param"] == "top_p"


def test_an_answer_is_one_line_whatever_its_text() -> None:
    read = read_line(1, line(custom_id="a\nb\u2028c\ud800"))
    answer = write_answer(read, json.dumps({"text": "x\ny\u2029"}).encode())
    assert answer.count(b"\n") == 1
    assert answer.endswith(b"\n")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("x"), 400),
        (PromptTooLong("x"), 400),
        (UnknownModel("x"), 404),
        (InvariantViolated("x"), 500),
    ],
)
def test_errors_have_the_gateways_status(error: Any, status: int) -> None:
    assert http_status(outcome_error(error)) == status
