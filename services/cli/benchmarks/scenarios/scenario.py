"""What every scripted scenario needs: a stack of null engines with known speed, a load, and figures with goals.

The null engine makes a worker's capacity a matter of arithmetic, whatever else the machine does:
places in the batch / (step time x tokens of an answer). Everything else is real.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from services.cli.benchmarks.goals import Figure, percentile
from services.cli.benchmarks.open_loop import Sample
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack

MODEL = "null"
TOKENS = 32
SLOTS = 8
FIRST_TOKEN_SECONDS = 2.0
"""The objective that callers judge by."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`picture`: what should be seen, in a sentence; `run` measures it, as figures with goals."""

    name: str
    picture: str
    run: Callable[[Report], Coroutine[Any, Any, list[Figure]]]


def body(number: int) -> bytes:
    """Streams; a question of its own each, so that no worker is preferred for its cache."""
    messages = [{"role": "user", "content": f"question {number}"}]
    request = {"model": MODEL, "messages": messages, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    return json.dumps(request).encode()


def requests_per_second(step_ms: float) -> float:
    """Of one worker."""
    return SLOTS / (step_ms / 1_000 * TOKENS)


@asynccontextmanager
async def scenario_stack(
    step_ms: Sequence[float], *, environment: dict[str, str] | None = None, redis: str | None = None
) -> AsyncIterator[EmbeddedStack]:
    """Ready, with one worker for each step time."""
    pool = PoolPlan(
        workers=len(step_ms),
        served_model_name=MODEL,
        environment={"PENSTOCK_WORKER_MAX_RUNNING_REQUESTS": str(SLOTS)},
        worker_environments=tuple({"PENSTOCK_WORKER_NULL_STEP_MS": str(step)} for step in step_ms),
    )
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        plan = StackPlan(
            data_dir=Path(directory),
            pools=(pool,),
            redis=redis,
            environment={
                "PENSTOCK_SLO_INTERACTIVE_FIRST_TOKEN_MS": str(round(FIRST_TOKEN_SECONDS * 500)),
                "PENSTOCK_TELEMETRY_TRACE_SAMPLE_RATIO": "0.01",
                "PENSTOCK_TELEMETRY_LOG_LEVEL": "WARNING",
                **(environment or {}),
            },
        )
        async with EmbeddedStack(plan) as stack:
            await stack.wait_until_ready()
            yield stack


async def fleet(stack: EmbeddedStack) -> dict[str, Any]:
    """What `penstock fleet --json` shows."""
    async with httpx.AsyncClient(base_url=stack.supervisor_url, timeout=10.0) as client:
        view: dict[str, Any] = (await client.get("/fleet")).json()
        return view


def answers_per_second(samples: Sequence[Sample], seconds: float) -> float:
    """What a pool that was asked for more than it can do has done: its capacity, on a machine as busy as this one."""
    return sum(map(is_whole, samples)) / max([seconds, *(sample.asked_at + sample.seconds for sample in samples)])


def count_events(view: dict[str, Any], kind: str, detail: str = "") -> int:
    return sum(event["kind"] == kind and detail in event["detail"] for event in view["events"])


def is_whole(sample: Sample) -> bool:
    return sample.is_answered and b"[DONE]" in sample.body


def lost(samples: Sequence[Sample]) -> int:
    """Neither answered to the end nor refused."""
    return sum(not is_whole(sample) and sample.status not in (429, 503) for sample in samples)


def refused(samples: Sequence[Sample]) -> int:
    return sum(sample.status in (429, 503) for sample in samples)


def first_token_seconds(samples: Sequence[Sample], share: float) -> float:
    """A percentile over those that were answered; 0 without any."""
    firsts = [sample.first_seconds for sample in samples if is_whole(sample) and sample.first_seconds is not None]
    return percentile(firsts, share) if firsts else 0.0


def answer_seconds(samples: Sequence[Sample], share: float) -> float:
    times = [sample.seconds for sample in samples if is_whole(sample)]
    return percentile(times, share) if times else 0.0
