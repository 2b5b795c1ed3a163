"""`penstock demo`: the whole platform once round on this machine, told as it happens.

Every answer shown comes from a client that knows nothing of us: the official `openai` package over HTTP, an ordinary
Kafka producer and consumer on the topics.
"""

from __future__ import annotations

import asyncio
import json
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.panel import Panel
from rich.rule import Rule

from services.cli.commands.fleet import fetch_fleet, fleet_table
from services.cli.commands.up import stack_state
from services.cli.console import CommandFailed, out, plain_errors, waiting
from services.cli.embedded.model import DEFAULT_MODEL_NAME, resolve_model
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from services.cli.settings import DEFAULT_MODEL
from services.cli.stack_state import remove_state, running_stack
from services.cli.waterfall import waterfall
from shared.contracts.requests import Lane
from shared.contracts.topics import TopicNames

QUESTION = "In two sentences: what is a message queue good for?"
RECORD = {
    "messages": [{"role": "user", "content": "Name one primary colour. Answer with one word."}],
    "max_tokens": 24,
    "temperature": 0,
}
ANSWER_SECONDS = 60.0
SPANS_SECONDS = 15.0


def demo(
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=8)] = 2,
    data_dir: Annotated[
        Path, typer.Option(help="Models, logs, spans, Kafka's log.", envvar="PENSTOCK_UP_DATA_DIR")
    ] = Path(".penstock"),
) -> None:
    """Start everything, ask over HTTP and over Kafka, show the fleet and a trace, stop everything."""
    with plain_errors():
        if state := running_stack(data_dir):
            raise CommandFailed(
                f"a stack already runs with {data_dir} (process {state.pid})", hint="give the demo its own --data-dir"
            )
        asyncio.run(run_demo(workers=workers, data_dir=data_dir))


async def run_demo(*, workers: int, data_dir: Path) -> None:
    started_at = time.monotonic()
    out.print(
        Panel(
            "Apache Kafka, Redis, a gateway, a supervisor and "
            f"{workers} workers with a real language model, on this machine.",
            title="Penstock",
            border_style="cyan",
            expand=False,
        )
    )
    model, served_name = await resolve_model(DEFAULT_MODEL, data_dir=data_dir)
    pool = PoolPlan(workers=workers, model=model, served_model_name=served_name)
    async with started_stack(StackPlan(data_dir=data_dir, pools=(pool,))) as stack:
        request_id = await ask_over_http(stack)
        await ask_over_kafka(stack)
        show_fleet(stack)
        await show_trace(stack, request_id)
        headline("Stopping: workers drain, then Kafka and Redis")
    out.print(f"[green]done[/] in {time.monotonic() - started_at:.0f} s. Next: [bold]make up[/], and the README.")


def headline(text: str) -> None:
    out.print()
    out.print(Rule(f"[bold]{text}[/]", align="left", style="cyan"))


@asynccontextmanager
async def started_stack(plan: StackPlan) -> AsyncIterator[EmbeddedStack]:
    """The stack, with a line on the terminal for what it waits for."""
    started_at = time.monotonic()
    with waiting(out, "starting Kafka and Redis") as report:
        stack = EmbeddedStack(plan, report=report)
        await stack.__aenter__()
        try:
            report("services start, workers load the model")
            await stack.wait_until_ready()
        except BaseException:
            await stack.__aexit__()
            raise
    stack_state(stack).write(plan.data_dir)
    try:
        seconds = time.monotonic() - started_at
        out.print(f"[green]up[/] after {seconds:.1f} s: Kafka {stack.addresses.kafka}, HTTP {stack.http_url}/v1")
        yield stack
    finally:
        remove_state(plan.data_dir)
        with waiting(out, "draining"):
            await stack.__aexit__()


async def ask_over_http(stack: EmbeddedStack) -> str:
    """Stream a chat answer with the official client; returns the request's id."""
    from openai import AsyncOpenAI

    headline("1. Over HTTP, with the official openai client")
    out.print(f"[dim]user[/]       {QUESTION}")
    async with AsyncOpenAI(base_url=f"{stack.http_url}/v1", api_key="none", timeout=ANSWER_SECONDS) as client:
        started_at = time.monotonic()
        first_token_at = None
        response = await client.chat.completions.with_raw_response.create(
            model=DEFAULT_MODEL_NAME,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=80,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        out.print("[dim]assistant[/]  ", end="")
        usage = None
        async for chunk in response.parse():
            usage = chunk.usage or usage
            for choice in chunk.choices:
                if choice.delta.content:
                    first_token_at = first_token_at or time.monotonic()
                    out.print(choice.delta.content, end="", markup=False, soft_wrap=True)
        out.print()
    if usage is None or first_token_at is None:
        raise CommandFailed("the stream ended without tokens or without usage", hint="see the logs of the gateway")
    seconds = time.monotonic() - first_token_at
    out.print(
        f"[dim]{usage.prompt_tokens} prompt tokens, {usage.completion_tokens} answered, first token after "
        f"{first_token_at - started_at:.2f} s, then {(usage.completion_tokens - 1) / seconds:.0f} tokens/s[/]"
    )
    return str(response.headers["x-request-id"])


async def ask_over_kafka(stack: EmbeddedStack) -> None:
    """Post a bare OpenAI body with an ordinary producer and read the result from the results topic."""
    from services.cli.foreign_clients.kafka_client import Receipt, Result, ResultReader, post

    names = TopicNames()
    requests = names.requests(stack.plan.pools[0].name, Lane.INTERACTIVE)
    headline("2. Over Kafka, with an ordinary producer and consumer (confluent-kafka)")
    out.print(f"[dim]to {requests}, no key, no headers:[/]")
    out.print_json(data=RECORD, indent=None)

    def round_trip() -> tuple[Receipt, Result]:
        reader = ResultReader(stack.addresses.kafka, names.results)
        try:
            receipt = post(stack.addresses.kafka, requests, [json.dumps(RECORD).encode()])[0]
            for result in reader.results(timeout_seconds=ANSWER_SECONDS):
                if result.receipt == receipt:
                    return receipt, result
        finally:
            reader.close()
        raise CommandFailed(f"no result of {receipt} within {ANSWER_SECONDS:.0f} s")

    receipt, result = await asyncio.to_thread(round_trip)
    out.print(
        f"[dim]from {names.results}, joined by the source's partition {receipt.partition}, offset {receipt.offset}:[/]"
    )
    out.print_json(result.value.decode(), indent=None)
    answer = json.loads(result.value)
    if "choices" not in answer:
        raise CommandFailed("the record was answered with an error")
    out.print("[dim]assistant[/]  " + textwrap.shorten(answer["choices"][0]["message"]["content"], 200))


def show_fleet(stack: EmbeddedStack) -> None:
    headline("3. The fleet, as the supervisor sees it")
    out.print(fleet_table(fetch_fleet(stack.supervisor_url)))


async def show_trace(stack: EmbeddedStack, request_id: str) -> None:
    """The first request's spans, from all services. They arrive in batches, so wait until the last is there."""
    headline(f"4. The first request as one trace: penstock trace {request_id}")
    deadline = time.monotonic() + SPANS_SECONDS
    while True:
        spans = await asyncio.to_thread(stack.span_store.spans_of_request, request_id)
        complete = {span.service for span in spans} >= {"gateway", "worker"} and any(
            not span.parent_id for span in spans
        )
        if complete or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    if not spans:
        raise CommandFailed(f"no span of request {request_id} arrived within {SPANS_SECONDS:.0f} s")
    out.print(waterfall(spans))
