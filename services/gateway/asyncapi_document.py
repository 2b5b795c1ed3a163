"""The Kafka side of the platform as an AsyncAPI 3 document, and as a page that needs nothing from elsewhere.

Made from the topic names and the body schemas, so that it cannot name a topic that does not exist.
"""

import html
import json
from typing import Any

from shared.contracts import headers as names_of
from shared.contracts.requests import Lane
from shared.contracts.topics import TopicNames
from shared.openai.schema import ChatBody, CompletionBody

_POOL = "{pool}"

_REQUEST_HEADERS = {
    names_of.CONTENT_TYPE: "application/json (default) or application/protobuf; the result comes back the same way",
    names_of.CE_ID: "your id of the request; with ce_source and the tenant it makes the request id",
    names_of.CE_SOURCE: "who you are",
    names_of.TRACEPARENT: "W3C trace context; the result carries the same trace",
    names_of.DEADLINE_MS: "an instant in Unix milliseconds after which nobody wants the answer",
    names_of.TENANT: "whom the request belongs to",
    names_of.PRIORITY: "larger is sooner, within the lane",
    names_of.REPLY_TO: "a topic that gets the result as well",
    names_of.ENDPOINT: "chat or completion; without it a body with messages is a chat",
}


def _schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for body in (ChatBody, CompletionBody):
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
    return schemas


def _channel(address: str, description: str, *messages: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _headers(described: dict[str, str]) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    return {"type": "object", "properties": properties}


def asyncapi_document(names: TopicNames) -> dict[str, Any]:
    schemas = _schemas()
    bodies = {"oneOf": [{"$ref": "#/components/schemas/ChatBody"}, {"$ref": "#/components/schemas/CompletionBody"}]}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Penstock", "version": "1", "description": "LLM inference on Kafka."},
        "defaultContentType": "application/json",
        "channels": {
            "interactiveRequests": _channel(
                names.requests(_POOL, Lane.INTERACTIVE), "Requests somebody waits for.", "request"
            ),
            "bulkRequests": _channel(names.requests(_POOL, Lane.BULK), "Requests that may wait for hours.", "request"),
            "results": _channel(
                names.results, "One terminal event per request; the first record of an id is the truth.", "result"
            ),
            "cancellations": _channel(names.cancellations, "Ids of requests to end.", "cancellation"),
            "deadLetters": _channel(
                names.dead_letters, "Records nobody could work on, unchanged, with the reason.", "request"
            ),
        },
        "operations": {
            "sendRequest": _operation("send", "interactiveRequests"),
            "sendBulkRequest": _operation("send", "bulkRequests"),
            "receiveResult": _operation("receive", "results"),
            "sendCancellation": _operation("send", "cancellations"),
            "receiveDeadLetter": _operation("receive", "deadLetters"),
        },
        "components": {
            "schemas": schemas,
            "messages": {
                "request": {"headers": _headers(_REQUEST_HEADERS), "payload": bodies},
                "result": {"payload": {"type": "object", "description": "The OpenAI response or error object."}},
                "cancellation": {
                    "payload": {
                        "type": "object",
                        "required": ["request_id"],
                        "properties": {"request_id": {"type": "string"}, "reason": {"type": "string"}},
                    }
                },
            },
        },
    }


def _operation(action: str, channel: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def asyncapi_page(document: dict[str, Any]) -> str:
    """Topics first, the whole document below."""
    rows = "".join(
        f"<tr><td><code>{html.escape(channel['address'])}</code></td><td>{html.escape(channel['description'])}</td></tr>"
        for channel in document["channels"].values()
    )
    headers = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(text)}</td></tr>"
        for name, text in _REQUEST_HEADERS.items()
    )
    whole = html.escape(json.dumps(document, indent=2))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Penstock AsyncAPI</title>"
        "<style>body{font:16px system-ui;margin:2em auto;max-width:60em}td{padding:.2em 1em .2em 0}</style>"
        f"<h1>Penstock on Kafka</h1><h2>Topics</h2><table>{rows}</table>"
        f"<h2>Headers of a request</h2><table>{headers}</table>"
        f"<h2>AsyncAPI 3</h2><p><a href=/asyncapi.json>asyncapi.json</a><pre>{whole}</pre></html>"
    )
