"""`GET /v1/models`: what the ready workers of the fleet serve, in OpenAI's shape."""

from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.error_responses import json_response
from services.gateway.fleet_directory import ServedModel
from services.gateway.gateway import gateway_of
from shared.contracts.errors import UnknownModel

router = APIRouter(tags=["models"])


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "penstock",
        "pool": model.pool,
        "max_model_len": model.max_model_tokens,
        "served_as": [asdict(kind) for kind in model.served_as],
        "speculation": model.speculation,
        "speculation_methods": model.speculation_methods,
    }


@router.get("/v1/models", response_class=Response, summary="Models served now")
async def list_models(request: Request) -> Response:
    gateway = gateway_of(request)
    caller = gateway.authenticator.caller_of(request.headers.get("authorization"))
    models = [_model_object(model) for model in gateway.directory.models() if caller.may_use(model.name)]
    return json_response(msgspec.json.encode({"object": "list", "data": models}))


@router.get("/v1/models/{name:path}", response_class=Response, summary="One model")
async def read_model(request: Request, name: str) -> Response:
    gateway = gateway_of(request)
    caller = gateway.authenticator.caller_of(request.headers.get("authorization"))
    caller.require_model(name)
    for model in gateway.directory.models():
        if model.name == name:
            return json_response(msgspec.json.encode(_model_object(model)))
    raise UnknownModel(f"the model `{name}` does not exist here", param="model")
