"""The OpenAPI document: FastAPI's, with the request bodies that the routes read by hand."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shared.openai.schema import ChatBody, CompletionBody


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
        application.openapi_schema = document
    return application.openapi_schema
