"""Reading a streamed answer, and saying clearly why there is none."""

import json
from collections.abc import Callable

import httpx
import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.commands.ask import error_message, first_model, text_deltas
from services.cli.console import CommandFailed


def event(text: str | None) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": text} if text is not None else {}}]})


def client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(answer))


def test_texts_come_in_order_and_pings_ids_and_empty_deltas_do_not_show() -> None:
    lines = [": ping", "id: 1", event("a"), "", event(None), event("b"), "data: [DONE]", event("after the end")]
    assert list(text_deltas(iter(lines))) == ["a", "b"]


def test_usage_without_choices_is_no_text() -> None:
    assert list(text_deltas(iter(['data: {"choices": [], "usage": {}}', 'data: {"usage": {}}']))) == []


def test_an_error_event_breaks_off_with_its_message() -> None:
    lines = iter([event("a"), 'data: {"error": {"message": "worker lost"}}'])
    texts = text_deltas(lines)
    assert next(texts) == "a"
    with pytest.raises(CommandFailed, match="worker lost"):
        next(texts)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"error": {"code": "queue_full", "message": "too many"}}', "503 queue_full: too many"),
        ("<html>", "the gateway answered 503"),
        ("[]", "the gateway answered 503"),
    ],
)
def test_a_refusal_is_told_in_one_line(body: str, expected: str) -> None:
    assert error_message(httpx.Response(503, text=body)) == expected


def test_the_first_model_served_is_taken() -> None:
    with client(lambda request: httpx.Response(200, json={"data": [{"id": "m1"}, {"id": "m2"}]})) as gateway:
        assert first_model(gateway) == "m1"


def test_no_model_yet_says_so() -> None:
    with (
        client(lambda request: httpx.Response(200, json={"data": []})) as gateway,
        pytest.raises(CommandFailed, match="knows no model yet"),
    ):
        first_model(gateway)


def test_an_unreachable_gateway_is_named() -> None:
    result = CliRunner().invoke(app, ["generate", "hi", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "no gateway answers at http://127.0.0.1:9" in result.output
