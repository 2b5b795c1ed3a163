"""Makes `docs/errors.md` by asking a running gateway: every refusal a client can meet, as `curl` shows it.

    .venv/bin/python -m docs.generate_errors

Starts the embedded stack with the null engine, provokes each error, takes Redis and Kafka away at the end.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack

OUTPUT = Path(__file__).with_name("errors.md")
GOOD = {"model": "null", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
KEYED = {"PENSTOCK_GATEWAY_API_KEYS": "secret=team-a"}
SMALL_BODY = {"PENSTOCK_GATEWAY_BODY_LIMIT_BYTES": "65536"}
SHOWN_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request that is refused. `body` None sends none; a str is sent as it is."""

    title: str
    body: dict[str, object] | str | None
    path: str = "/v1/chat/completions"
    method: str = "POST"
    headers: tuple[str, ...] = ()
    shown_body: str | None = None


CASES = (
    Case(title="broken JSON", body='{"model": '),
    Case(title="not an object", body="[1, 2]"),
    Case(title="missing field", body={"model": "null"}),
    Case(title="no model", body={key: value for key, value in GOOD.items() if key != "model"}),
    Case(title="wrong type", body={**GOOD, "max_tokens": "many"}),
    Case(title="number out of range", body={**GOOD, "temperature": 3}),
    Case(title="field inside a list", body={**GOOD, "messages": [{"role": "user", "content": 5}]}),
    Case(title="unsupported parameter", body={**GOOD, "functions": [{}]}),
    Case(title="unknown parameter", body={**GOOD, "temprature": 1}),
    Case(title="unknown model", body={**GOOD, "model": "gpt-x"}),
    Case(
        title="prompt longer than the context",
        body={**GOOD, "messages": [{"role": "user", "content": "w " * 20_000}]},
        shown_body='{"model": "null", "messages": [{"role": "user", "content": "w w w ... (40,000 characters)"}]}',
    ),
    Case(
        title="body over the limit",
        body={**GOOD, "messages": [{"role": "user", "content": "w" * 70_000}]},
        shown_body="(70 kB, with PENSTOCK_GATEWAY_BODY_LIMIT_BYTES=65536)",
    ),
    Case(title="unknown request id", body=None, method="GET", path="/v1/requests/ffffffffffffffffffffffffffffffff"),
    Case(title="unknown route", body=None, method="GET", path="/v1/embeddings"),
    Case(title="wrong method", body=None, method="GET"),
)
NO_KEY = Case(title="no API key, keys configured", body=GOOD)
WRONG_KEY = Case(title="wrong API key", body=GOOD, headers=("authorization: Bearer wrong",))
NO_WORKER = Case(title="no worker ready", body=GOOD)
NO_REDIS = Case(title="Redis away", body=GOOD)
NO_KAFKA = Case(title="Kafka away", body=GOOD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str


def curl(base_url: str, case: Case) -> Answer:
    """Send it with the real curl and take the answer apart."""
    command = ["curl", "-sS", "-i", "--max-time", "60", "-X", case.method, base_url + case.path]
    for header in case.headers:
        command += ["-H", header]
    if case.body is not None:
        text = case.body if isinstance(case.body, str) else json.dumps(case.body)
        command += ["-H", "content-type: application/json", "--data-binary", "@-"]
    else:
        text = ""
    shown = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    head, _, body = shown.replace("\r\n", "\n").rpartition("\n\n")
    while head.startswith("HTTP/1.1 100"):
        head = head.partition("\n\n")[2]
    first, *lines = head.splitlines()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(status=int(first.split()[1]), headers=headers, body=body.strip())


def _shown_body(case: Case) -> str:
    if case.shown_body is not None or case.body is None:
        return case.shown_body or ""
    return case.body if isinstance(case.body, str) else json.dumps(case.body)


def row(case: Case, answer: Answer) -> str:
    error = json.loads(answer.body)["error"]
    parts = [f"{case.method} {case.path}", _shown_body(case), *case.headers]
    shown = " ".join(f"`{part}`" for part in parts if part)
    headers = "<br>".join(f"{name}: {answer.headers[name]}" for name in SHOWN_HEADERS if name in answer.headers)
    param = f"`{error['param']}`" if error["param"] else ""
    return (
        f"| {case.title} | {shown} | {answer.status} | `{error['type']}` | `{error['code']}` | {param} "
        f"| {error['message']} | {headers} |"
    )


async def ask(stack: EmbeddedStack, *cases: Case) -> list[str]:
    rows = []
    for case in cases:
        answer = await asyncio.to_thread(curl, stack.http_url, case)
        assert "x-request-id" in answer.headers, f"{case.title}: no x-request-id"
        rows.append(row(case, answer))
        print(answer.status, case.title)
    return rows


async def collect() -> list[str]:
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        plan = StackPlan(data_dir=Path(directory), pools=(PoolPlan(served_model_name="null"),), environment=SMALL_BODY)
        async with EmbeddedStack(plan) as stack:
            await stack.wait_until_ready()
            rows += await ask(stack, *CASES)
            (worker,) = stack.workers
            await stack.stop_service(worker, grace_seconds=20)
            rows += await ask(stack, NO_WORKER)
            stack.start_worker(plan.pools[0])
            await stack.wait_until_ready()
            assert stack.kafka_server is not None
            assert stack.redis_server is not None
            stack.redis_server.stop()
            rows += await ask(stack, NO_REDIS)
            await asyncio.to_thread(stack.redis_server.start)
            await stack.wait_until_ready()
            stack.kafka_server.kill()
            rows += await ask(stack, NO_KAFKA)
            for service in list(stack.services):
                await stack.stop_service(service, grace_seconds=1)
    with tempfile.TemporaryDirectory() as directory:
        pools = (PoolPlan(served_model_name="null"),)
        async with EmbeddedStack(StackPlan(data_dir=Path(directory), pools=pools, environment=KEYED)) as stack:
            await stack.wait_until_ready()
            rows += await ask(stack, NO_KEY, WRONG_KEY)
    return rows


def document(rows: list[str]) -> str:
    def lines() -> Iterator[str]:
        yield "# Errors a client can meet\n"
        yield "Made by `python -m docs.generate_errors`, which asks a running gateway with `curl`. Bodies have OpenAI's"
        yield 'shape: `{"error": {"message", "type", "param", "code"}}`. Every answer carries `x-request-id`.\n'
        yield "| case | request | status | type | code | param | message | headers |"
        yield "|---|---|---|---|---|---|---|---|"
        yield from rows

    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    print(shlex.join(["curl", "--version"]), subprocess.check_output(["curl", "--version"], text=True).split("\n")[0])
    OUTPUT.write_text(document(asyncio.run(collect())))
