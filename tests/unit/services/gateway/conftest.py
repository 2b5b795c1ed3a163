"""A gateway for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.served_gateway import ServedGateway, served_gateway


@pytest.fixture
async def served() -> AsyncIterator[ServedGateway]:
    async with served_gateway() as running:
        yield running
