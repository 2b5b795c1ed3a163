"""`penstock up`: the embedded stack in the foreground, until Ctrl-C drains it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.panel import Panel
from rich.table import Table

from services.cli.commands.rollout import rollouts_of
from services.cli.console import CommandFailed, err, out, plain_errors
from services.cli.embedded.model import resolve_model, resolve_quantized
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.scaler import keep_scaled
from services.cli.embedded.service_process import ServiceState
from services.cli.embedded.stack import EmbeddedStack
from services.cli.embedded.stack_control import StackControl
from services.cli.settings import UpSettings
from services.cli.stack_state import StackState, remove_state, running_stack
from shared.resilience.cores import usable_cores


def resolve_settings(**flags: Any) -> UpSettings:
    """Flags over environment over defaults; a wrong value becomes one readable line."""
    try:
        return UpSettings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise CommandFailed(f"setting {field}: {problem['msg']}", hint="`penstock up --help` lists the flags") from None


async def make_plan(settings: UpSettings) -> StackPlan:
    if settings.engine == "null":
        pool = PoolPlan(name=settings.pool, workers=settings.least_workers, served_model_name="null")
    else:
        model, served_name, quantization = await resolve_quantized(
            settings.model, settings.quantization, data_dir=settings.data_dir
        )
        pool = PoolPlan(
            name=settings.pool,
            workers=settings.least_workers,
            environment=_threads(settings),
            model=model,
            served_model_name=served_name,
            dtype=settings.dtype,
            quantization=quantization,
            kv_cache=settings.kv_cache,
            speculation=settings.speculation,
            draft_model=await _draft_model(settings),
        )
    return StackPlan(
        data_dir=settings.data_dir,
        pools=(pool,),
        gateways=settings.gateways,
        supervisors=settings.supervisors,
        http_port=settings.http_port,
        supervisor_port=settings.supervisor_port,
        kafka_port=settings.kafka_port,
        redis_port=settings.redis_port,
        kafka=settings.kafka,
        redis=settings.redis,
        environment={"PENSTOCK_GATEWAY_DEFAULT_POOL": settings.pool, **_scaling(settings)},
    )


async def _draft_model(settings: UpSettings) -> Path | None:
    if settings.draft_model is None:
        return None
    directory, _ = await resolve_model(settings.draft_model, data_dir=settings.data_dir)
    return directory


def _scaling(settings: UpSettings) -> dict[str, str]:
    if not settings.is_scaled:
        return {}
    return {"PENSTOCK_SUPERVISOR_SCALING": f"{settings.pool}={settings.least_workers}..{settings.most_workers}"}


def _threads(settings: UpSettings) -> dict[str, str]:
    """Cores are shared out among as many workers as there may be."""
    if not settings.is_scaled:
        return {}
    return {"PENSTOCK_WORKER_NUM_THREADS": str(max(1, usable_cores() // settings.most_workers))}


def stack_state(stack: EmbeddedStack, *, control: str = "") -> StackState:
    return StackState(
        pid=os.getpid(),
        http_url=stack.http_url,
        supervisor_url=stack.supervisor_url,
        kafka=stack.addresses.kafka,
        redis=stack.addresses.redis,
        span_database=str(stack.plan.data_dir / "spans.sqlite"),
        pool=stack.plan.pools[0].name,
        control=control,
    )


def banner(stack: EmbeddedStack) -> Panel:
    grid = Table.grid(padding=(0, 2))
    for name, value in (
        ("HTTP", "  ".join(f"{url}/v1" for url in stack.http_urls) + "  (docs at /docs)"),
        ("Kafka", stack.addresses.kafka),
        ("Redis", stack.addresses.redis),
        ("status", f"{stack.supervisor_url}  (or `penstock top`)"),
        ("logs", str(stack.plan.data_dir / "logs")),
    ):
        grid.add_row(f"[bold]{name}[/]", value)
    return Panel(grid, title="Penstock is up", subtitle="Ctrl-C drains and stops", border_style="green", expand=False)


def install_stop_signals() -> asyncio.Event:
    """An event that the first SIGINT or SIGTERM sets."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def run_stack(settings: UpSettings) -> None:
    if state := running_stack(settings.data_dir):
        raise CommandFailed(
            f"a stack already runs with the data directory {settings.data_dir} (process {state.pid})",
            hint="stop it, or choose another directory with --data-dir",
        )
    stop = install_stop_signals()
    plan = await make_plan(settings)
    started_at = time.monotonic()
    async with EmbeddedStack(plan, report=lambda line: err.print(f"[dim]{line}[/]")) as stack:
        stack_state(stack).write(settings.data_dir)
        try:
            if await _ready_or_stopped(stack, stop):
                out.print(banner(stack))
                err.print(f"[dim]ready after {time.monotonic() - started_at:.1f} s[/]")
            await _serve(stack, settings, stop)
            err.print("[dim]draining: running requests finish or are handed over[/]")
        finally:
            remove_state(settings.data_dir)
    err.print("[dim]stopped[/]")


async def _serve(stack: EmbeddedStack, settings: UpSettings, stop: asyncio.Event) -> None:
    """Until told to stop: scale, and take orders."""
    say = partial(err.print, style="dim")
    async with asyncio.TaskGroup() as tasks:
        if settings.is_scaled:
            tasks.create_task(keep_scaled(stack, stack.plan.pools[0].name, stop, report=say))
        async with StackControl(rollouts_of(stack, report=say)) as control:
            stack_state(stack, control=control.path).write(settings.data_dir)
            await _until_stopped_or_refused(stack, stop)


async def _ready_or_stopped(stack: EmbeddedStack, stop: asyncio.Event) -> bool:
    ready = asyncio.ensure_future(stack.wait_until_ready())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
        return ready.done()
    finally:
        for task in (ready, stopped):
            task.cancel()


async def _until_stopped_or_refused(stack: EmbeddedStack, stop: asyncio.Event) -> None:
    while not stop.is_set():
        refused = [
            service
            for service in stack.services
            if service.state is ServiceState.REFUSED and service not in stack.candidates
        ]
        if refused:
            raise CommandFailed(f"{refused[0].name} refused its settings: {refused[0].last_log_lines(1)}")
        await asyncio.wait({asyncio.ensure_future(stop.wait())}, timeout=0.5)


def up(
    workers: Annotated[
        str | None,
        typer.Option(help="Worker processes; `1..4`: as many as the load asks for.", envvar="PENSTOCK_UP_WORKERS"),
    ] = None,
    gateways: Annotated[int | None, typer.Option(help="Gateways.", envvar="PENSTOCK_UP_GATEWAYS")] = None,
    supervisors: Annotated[int | None, typer.Option(help="Supervisors.", envvar="PENSTOCK_UP_SUPERVISORS")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Hugging Face directory, GGUF file, or `default`.", envvar="PENSTOCK_UP_MODEL"),
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Name of the pool.", envvar="PENSTOCK_UP_POOL")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16.", envvar="PENSTOCK_UP_DTYPE")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            help="none, keep, awq-int4, gptq-int4-g128, smoothquant-int8-g64, fp8 (each with -head8: the head in "
            "8 bits, too), or rounded at load: rtn-int8 ...",
            envvar="PENSTOCK_UP_QUANTIZATION",
        ),
    ] = None,
    kv_cache: Annotated[
        str | None,
        typer.Option(help="16bit, int8, fp8, int4, or by layers int4*10,int8*10,16bit", envvar="PENSTOCK_UP_KV_CACHE"),
    ] = None,
    speculation: Annotated[
        str | None,
        typer.Option(help="How tokens are drafted: none, prompt-lookup ...", envvar="PENSTOCK_UP_SPECULATION"),
    ] = None,
    draft_model: Annotated[
        str | None,
        typer.Option(help="Smaller model with the same tokenizer, for draft-model.", envvar="PENSTOCK_UP_DRAFT_MODEL"),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="`real`, or `null` for hashes without a model.", envvar="PENSTOCK_UP_ENGINE")
    ] = None,
    http_port: Annotated[int | None, typer.Option(help="Gateway's port.", envvar="PENSTOCK_UP_HTTP_PORT")] = None,
    supervisor_port: Annotated[
        int | None, typer.Option(help="Supervisor's port.", envvar="PENSTOCK_UP_SUPERVISOR_PORT")
    ] = None,
    kafka_port: Annotated[int | None, typer.Option(help="Kafka's port.", envvar="PENSTOCK_UP_KAFKA_PORT")] = None,
    redis_port: Annotated[int | None, typer.Option(help="Redis' port.", envvar="PENSTOCK_UP_REDIS_PORT")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Models, logs, spans, Kafka's log.", envvar="PENSTOCK_UP_DATA_DIR")
    ] = None,
    kafka: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Kafka that already runs.", envvar="PENSTOCK_UP_KAFKA")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="URL of a Redis that already runs.", envvar="PENSTOCK_UP_REDIS")
    ] = None,
) -> None:
    """Run the whole platform on this machine until Ctrl-C."""
    flags = dict(locals())
    with plain_errors():
        asyncio.run(run_stack(resolve_settings(**flags)))
