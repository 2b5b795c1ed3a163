"""Fixtures that every test may ask for: real servers, started lazily, once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins: list[str] = [
    "tests.fixtures.kafka_server",
    "tests.fixtures.random_models",
    "tests.fixtures.redis_server",
    "tests.fixtures.smollm2",
    "tests.fixtures.stack",
    "tests.fixtures.triton_interpreter",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a card are collected everywhere and skip, with the reason, where there is none."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
