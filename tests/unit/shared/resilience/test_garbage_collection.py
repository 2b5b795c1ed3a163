"""Fewer looks for cycles; cycles are still found."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from shared.resilience.garbage_collection import calm_garbage_collector


@pytest.fixture
def thresholds_afterwards() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_was_built_before_is_not_looked_at_again(thresholds_afterwards: None) -> None:
    built = [Node() for _ in range(100)]
    calm_garbage_collector()
    assert gc.get_freeze_count() > len(built)
    assert gc.get_threshold()[0] > 700


def test_cycles_made_afterwards_are_still_found(thresholds_afterwards: None) -> None:
    calm_garbage_collector()
    lost = weakref.ref(Node())
    for _ in range(2):
        kept = [[] for _ in range(gc.get_threshold()[0] + 1)]  # a look is due
        del kept
    assert lost() is None


@pytest.mark.parametrize("service", ["services.gateway.__main__", "services.worker.__main__"])
def test_the_busy_services_use_it(service: str) -> None:
    probe = f"import {service} as main; assert main.calm_garbage_collector"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
