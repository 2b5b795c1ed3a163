"""`penstock generate`: one prompt to the running stack, its answer streamed to the terminal.

With `--show-drafts` the model answers in a process of its own instead, and every draft is in sight: chunks of a stream
carry what stood, not what did not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from services.cli.commands.offline import run_tool
from services.cli.console import CommandFailed, err, out, plain_errors
from services.cli.embedded.model import resolve_model
from services.cli.settings import DEFAULT_MODEL
from services.cli.stack_state import require_stack

DATA_DIR_OPTION = typer.Option(help="Data directory of the stack.", envvar="PENSTOCK_UP_DATA_DIR")


def generate(
    prompt: Annotated[str, typer.Argument(help="What to say to the model.")],
    url: Annotated[str | None, typer.Option(help="Gateway's URL; default: the running stack's.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Default: the first one served; with --show-drafts a directory, GGUF file or `default`."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.7,
    seed: Annotated[int | None, typer.Option(help="Makes the answer repeatable.")] = None,
    speculation: Annotated[
        str | None, typer.Option(help="How to draft: none, prompt-lookup, quantspec ...; default: the pool's way.")
    ] = None,
    show_drafts: Annotated[
        bool, typer.Option("--show-drafts", help="Answer here, without a stack, and show every draft's fate.")
    ] = False,
    draft_model: Annotated[
        str | None, typer.Option(help="With --show-drafts: the smaller model of --speculation draft-model.")
    ] = None,
    draft_tokens: Annotated[int, typer.Option(help="With --show-drafts: tokens of a draft.")] = 4,
    api_key: Annotated[str | None, typer.Option(help="API key.", envvar="PENSTOCK_CLI_API_KEY")] = None,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Stream one chat answer."""
    if show_drafts:
        with plain_errors():
            options: dict[str, Any] = {
                "model": asyncio.run(resolve_model(model or DEFAULT_MODEL, data_dir=data_dir))[0],
                "speculation": speculation,
                "draft-model": draft_model,
                "draft-tokens": draft_tokens,
                "max-tokens": max_tokens,
                "temperature": temperature,
                "seed": seed,
            }
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        run_tool("services.worker.offline.show_drafts", [*given, "--", prompt])
    with plain_errors():
        base = url or require_stack(data_dir).http_url
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        with httpx.Client(base_url=base, timeout=httpx.Timeout(10.0, read=120.0), headers=headers) as client:
            body: dict[str, Any] = {
                "model": model or first_model(client),
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "temperature": temperature,
                "stream": True,
            }
            optional = {"seed": seed, "speculation": speculation}
            body |= {name: value for name, value in optional.items() if value is not None}
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise CommandFailed(error_message(response))
                for text in text_deltas(response.iter_lines()):
                    out.print(text, end="", markup=False, soft_wrap=True)
                out.print()
                request_id = response.headers.get("x-request-id", "")
        err.print(f"[dim]request {request_id}; its trace: penstock trace {request_id}[/]", soft_wrap=True)


def first_model(client: httpx.Client) -> str:
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise CommandFailed(f"no gateway answers at {client.base_url}: {error}") from None
    if response.status_code != 200:
        raise CommandFailed(error_message(response))
    models = response.json()["data"]
    if not models:
        raise CommandFailed("the gateway knows no model yet", hint="wait for a worker: penstock fleet")
    return str(models[0]["id"])


def error_message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return f"{response.status_code} {error['code']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return f"the gateway answered {response.status_code}"


def text_deltas(lines: Iterator[str]) -> Iterator[str]:
    """The text of each server-sent event; an error event ends in `CommandFailed`."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise CommandFailed(f"the answer broke off: {event['error']['message']}")
        for choice in event.get("choices", ()):
            if text := choice.get("delta", {}).get("content"):
                yield text
