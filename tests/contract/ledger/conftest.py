"""The ledger under test: the real one and the fake must answer alike."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from shared.ledger.ledger import Ledger
from shared.settings.redis import RedisSettings
from tests.contract.ledger.ledger_bench import Bench
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.ledger_store import Store


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.redis), "memory"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    store = Store()
    is_real = request.param == "redis"
    settings: RedisSettings | None = request.getfixturevalue("redis_settings") if is_real else None
    async with AsyncExitStack() as stack:

        async def open_ledger() -> Ledger:
            if settings is not None:
                return await stack.enter_async_context(Ledger(settings))
            return await stack.enter_async_context(InMemoryLedger(store=store))  # type: ignore[arg-type]

        ledger = await open_ledger()
        await ledger.open_epoch(is_refilled=False)
        yield Bench(open_ledger, ledger)
