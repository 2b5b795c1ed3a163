"""How long the ledger's verbs take, one after another and many at once: `python -m tests.benchmarks.ledger_verbs`.

It starts its own Redis. Numbers go to standard output; a run beside other work shows the other work.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from services.cli.embedded.redis import EmbeddedRedis
from shared.contracts.events import Chunk, Outcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.contracts.requests import Coordinates, Lane, WireFormat
from shared.ledger.ledger import Ledger
from shared.ledger.records import Append, ClaimRequest, Registration, Run
from shared.settings.redis import RedisSettings

_REQUESTS = 2_000
_FLUSHES = 500
_BATCH = 32
_TOKENS_PER_CHUNK = 2
_WORKER = Incarnation("worker.1")


def _registration(index: int) -> Registration:
    return Registration(
        request_id=RequestId(f"{index:032x}"), pool="default", lane=Lane.INTERACTIVE, tenant="acme",
        deadline_ms=2**42, fingerprint="f" * 32, seed=index,
    )  # fmt: skip


def _outcome(request_id: RequestId) -> SealedOutcome:
    return SealedOutcome(
        request_id=request_id, outcome=Outcome.COMPLETED, wire_format=WireFormat.JSON, value=b"x" * 800,
        headers=(("ce_id", b"1"),), reply_to=None, sealed_at_ms=1,
    )  # fmt: skip


async def _measure(name: str, count: int, question: Callable[[int], Awaitable[object]]) -> None:
    elapsed, cpu = time.perf_counter(), time.process_time()
    for index in range(count):
        await question(index)
    elapsed, cpu = time.perf_counter() - elapsed, time.process_time() - cpu
    sys.stdout.write(f"{name:<28}{elapsed / count * 1e6:8.0f} us{cpu / count * 1e6:8.0f} us CPU here\n")


async def measure(ledger: Ledger) -> None:
    tokens: dict[int, ClaimToken] = {}

    async def claim(index: int) -> None:
        answer = await ledger.claim(
            ClaimRequest(
                registration=_registration(index), incarnation=_WORKER, max_attempts=3,
                coordinates=Coordinates(topic="requests", partition=1, offset=index, timestamp_ms=1),
            )
        )  # fmt: skip
        assert isinstance(answer, Run)
        tokens[index] = answer.token

    async def append(flush: int) -> None:
        chunks = (Chunk(choice=0, position=flush * _TOKENS_PER_CHUNK, token_ids=(5_000, 40_000), text=" hello"),)
        await ledger.append(
            [
                Append(request_id=_registration(index).request_id, token=tokens[index], chunks=chunks)
                for index in range(_BATCH)
            ]
        )

    async def seal(index: int) -> None:
        request_id = _registration(index).request_id
        await ledger.seal(request_id, tokens[index], _outcome(request_id))

    await _measure("register", _REQUESTS, lambda index: ledger.register(_registration(index), channel="gateway"))
    await _measure("claim", _REQUESTS, claim)
    await _measure(f"append, batch of {_BATCH}", _FLUSHES, append)
    await _measure("seal", _REQUESTS, seal)
    await _measure("finish", _REQUESTS, lambda index: ledger.finish(_registration(index).request_id))
    elapsed = time.perf_counter()
    await asyncio.gather(
        *(ledger.register(_registration(_REQUESTS + index), channel="gateway") for index in range(_REQUESTS))
    )
    elapsed = time.perf_counter() - elapsed
    sys.stdout.write(f"{'register, all at once':<28}{_REQUESTS / elapsed:8.0f} a second\n")


async def main() -> None:
    with EmbeddedRedis() as server:
        async with Ledger(RedisSettings(url=server.url)) as ledger:
            await ledger.open_epoch(is_refilled=False)
            await measure(ledger)


if __name__ == "__main__":
    asyncio.run(main())
