"""Schemathesis against a served gateway: what fits the OpenAPI document, or nearly, is answered in its terms.

A scripted worker completes every accepted request, so that a server error is never the fleet's fault.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import ServerError
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.fakes.scripted_worker import Job
from tests.fakes.served_gateway import ServedGateway, served_gateway

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/requests/{name}"),
    ("DELETE", "/v1/requests/{name}"),
    ("GET", "/v1/requests/{name}/stream"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
]
EXAMPLES = 40


@asynccontextmanager
async def answering(served: ServedGateway) -> AsyncIterator[None]:
    async def work() -> None:
        done = 0
        while True:
            while done < len(served.producer.sent):
                job = await served.worker.claim(served.producer.record(done))
                done += 1
                if isinstance(job, Job):
                    await job.complete()
            await asyncio.sleep(0.002)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def explore(url: str, method: str, path: str, mode: GenerationMode) -> int:
    """Call one operation with generated input, check every answer; the number of calls made."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = schema[path][method]
    calls = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        nonlocal calls
        calls += 1
        case.call_and_validate(base_url=url, checks=CHECKS, timeout=20)

    check()
    return calls


FITTING, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        *((method, path, FITTING) for method, path in OPERATIONS),
        *((method, path, WRONG) for method, path in OPERATIONS if method == "POST"),
    ],
)
async def test_generated_requests_get_documented_answers(method: str, path: str, mode: GenerationMode) -> None:
    async with served_gateway() as served, answering(served):
        assert await asyncio.to_thread(explore, served.url, method, path, mode) > 0
        assert (await served.client.get("/livez")).status_code == 200


async def test_the_check_would_notice_a_server_error() -> None:
    async with served_gateway(fleet=()) as served:
        with pytest.raises(BaseExceptionGroup) as found:
            await asyncio.to_thread(explore, served.url, "GET", "/readyz", FITTING)
        assert found.group_contains(ServerError)
