"""The OpenAPI document: FastAPI's, with the request bodies that the routes read by hand, and our errors."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shared.openai.schema import ChatBody, CompletionBody

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field or header that is wrong."},
                "code": {"type": ["string", "null"], "description": "One of docs/errors.md."},
            },
        }
    },
}
_REFUSED = {
    "description": "Refused, or failed: the error names the field where there is one.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}


def openapi_document(application: FastAPI) -> dict[str, Any]:
    """Computed once."""
    if application.openapi_schema is None:
        document = get_openapi(
            title=application.title,
            version=application.version,
            description=application.description,
            routes=application.routes,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for body in (ChatBody, CompletionBody):
            schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[body.__name__] = schema
        schemas["Error"] = _ERROR
        for path in (methods for name, methods in document["paths"].items() if name.startswith("/v1/")):
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own shape, which nobody gets here
                operation["responses"]["default"] = _REFUSED
        application.openapi_schema = document
    return application.openapi_schema
