"""`penstock rollout`: other weights for the pool of the running stack, worker by worker, while requests run."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.commands.ask import DATA_DIR_OPTION
from services.cli.commands.orders import admin_key, give_order
from services.cli.console import CommandFailed, err, out, plain_errors
from services.cli.embedded.model import resolve_quantized
from services.cli.embedded.rollout import Rollout, roll_out
from services.cli.embedded.stack import EmbeddedStack
from services.cli.embedded.stack_control import Obey, Say, ask_stack
from services.cli.stack_state import require_stack

_REASON = "a rollout replaces it"


def rollout(
    model: Annotated[str, typer.Argument(help="Hugging Face directory, GGUF file, or `default`.")],
    quantization: Annotated[str, typer.Option(help="As for `penstock up`.")] = "none",
    kv_cache: Annotated[str | None, typer.Option(help="As for `penstock up`; default: the pool's own.")] = None,
    dtype: Annotated[str | None, typer.Option(help="As for `penstock up`; default: the pool's own.")] = None,
    patience_seconds: Annotated[
        float, typer.Option(help="How long each worker may take to be ready, and each old one to finish its streams.")
    ] = 900.0,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Swap the weights of the pool. A stream ends with the weights it began with; new requests get the new ones.

    The model keeps its name. Ctrl-C leaves the rollout to the stack; `penstock fleet` shows it. In Kubernetes the same
    is a new template with `maxUnavailable: 0` and PENSTOCK_WORKER_DRAIN_SECONDS above the longest answer.
    """
    with plain_errors():
        stack = require_stack(data_dir)
        directory, _, kept_as = asyncio.run(resolve_quantized(model, quantization, data_dir=data_dir))
        request = {
            "pool": stack.pool,
            "model": str(directory.resolve()),
            "quantization": kept_as,
            "kv_cache": kv_cache,
            "dtype": dtype,
            "patience_seconds": patience_seconds,
            "admin_key": admin_key(),
        }
        try:
            out.print(asyncio.run(ask_stack(stack.control, request, say=lambda line: err.print(f"[dim]{line}[/]"))))
        except KeyboardInterrupt:
            err.print("[dim]it goes on without you; `penstock fleet` shows how far it is[/]")


def rollouts_of(stack: EmbeddedStack, *, report: Say) -> Obey:
    """What the stack does when `penstock rollout` asks: its own terminal is told, too. One at a time."""
    is_under_way = False

    async def obey(request: dict[str, Any], say: Say) -> str:
        nonlocal is_under_way
        if is_under_way:
            raise CommandFailed("a rollout is under way", hint="`penstock fleet` shows how far it is")
        before = stack.pools[request["pool"]]
        if before.model is None:
            raise CommandFailed("the null engine has no weights", hint="`penstock up` without --engine null has some")
        target = replace(
            before,
            model=Path(request["model"]),
            quantization=request["quantization"],
            kv_cache=request["kv_cache"] or before.kv_cache,
            dtype=request["dtype"] or before.dtype,
        )

        def tell(line: str) -> None:
            report(f"rollout: {line}")
            say(line)

        async def order(worker: str, kind: str) -> None:
            await asyncio.to_thread(give_order, stack.supervisor_urls, worker, kind, _REASON, key=request["admin_key"])

        is_under_way = True
        try:
            plan = Rollout(pool=target, patience_seconds=request["patience_seconds"])
            number = await roll_out(stack, plan, order, report=tell)
        finally:
            is_under_way = False
        return f"{number} workers replaced" if number else "every worker has these weights already"

    return obey
