"""The HTTP table against the error classes, and what an error looks like on the wire."""

import json

import pytest

from services.gateway.error_responses import (
    HTTP_STATUS,
    error_response,
    retry_headers,
    routing_error_response,
    sealed_error_response,
    status_of,
)
from shared.contracts.errors import (
    Blame,
    CapacityError,
    InvalidRequest,
    PlatformError,
    QueueFull,
    Retry,
    Unauthorized,
    error_classes,
)


def made(error: type[PlatformError]) -> PlatformError:
    if issubclass(error, CapacityError):
        return error("no", retry_after_seconds=2.5)
    return error("no", param="field")


def test_the_table_names_exactly_the_codes_of_the_error_classes() -> None:
    assert set(HTTP_STATUS) == set(error_classes())


@pytest.mark.parametrize("code", sorted(HTTP_STATUS))
def test_every_error_is_openai_shaped_with_the_status_of_the_table(code: str) -> None:
    error = made(error_classes()[code])
    response = error_response(error)
    body = json.loads(response.body)["error"]
    assert response.status_code == HTTP_STATUS[code]
    assert (body["message"], body["code"], body["param"]) == ("no", code, error.param)
    assert body["type"].endswith("_error")


@pytest.mark.parametrize("code", sorted(HTTP_STATUS))
def test_the_callers_faults_are_4xx_and_only_what_may_work_later_is_to_be_repeated(code: str) -> None:
    error = error_classes()[code]
    headers = retry_headers(code)
    assert (HTTP_STATUS[code] < 500) == (error.blame is Blame.CALLER or code == "request_cancelled")
    assert headers["x-should-retry"] == ("false" if error.retry is Retry.NEVER else "true")
    assert ("retry-after" in headers) == (error.retry is not Retry.NEVER)


def test_a_refusal_says_when_in_seconds_rounded_up_and_in_milliseconds() -> None:
    response = error_response(QueueFull("full", retry_after_seconds=1.2341))
    assert response.headers["retry-after"] == "2"
    assert response.headers["retry-after-ms"] == "1235"
    assert response.headers["x-should-retry"] == "true"


def test_a_bug_of_the_caller_is_not_to_be_repeated() -> None:
    response = error_response(InvalidRequest("bad", param="n"))
    assert response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers


def test_401_names_the_scheme() -> None:
    response = error_response(Unauthorized("who?"))
    assert response.headers["www-authenticate"] == "Bearer"
    assert json.loads(response.body)["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (b'{"error": {"code": "deadline_exceeded"}}', 504),
        (b'{"error": {"code": "of_tomorrow"}}', 500),
        (b'{"error": {"code": 7}}', 500),
        (b'{"error": null}', 500),
        (b"\xff", 500),
    ],
)
def test_a_sealed_error_keeps_its_bytes_and_gets_its_status(value: bytes, status: int) -> None:
    response = sealed_error_response(value)
    assert response.status_code == status
    assert response.body == value


def test_an_unknown_code_is_our_fault() -> None:
    assert status_of("of_tomorrow") == 500


@pytest.mark.parametrize(("status", "code"), [(404, "unknown_url"), (405, "method_not_allowed")])
def test_routing_errors_are_openai_shaped(status: int, code: str) -> None:
    response = routing_error_response(status, method="GET", path="/v2", headers={"allow": "POST"})
    assert response.status_code == status
    assert json.loads(response.body)["error"]["code"] == code
    assert response.headers["allow"] == "POST"
