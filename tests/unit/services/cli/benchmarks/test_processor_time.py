"""Processor time by service: names from command lines, differences between readings."""

import os
import time

import pytest

from services.cli.benchmarks.processor_time import LOAD_GENERATOR, OTHER, ProcessorClock, service_named, spent


@pytest.mark.parametrize(
    ("command_line", "service"),
    [
        ("penstock services.worker.engine_process", "engine"),
        ("/usr/bin/python -P -m services.worker.engine_process --fd 7", "engine"),
        ("penstock services.worker default-0", "worker"),
        ("penstock services.gateway 8000", "gateway"),
        ("penstock services.supervisor 8001", "supervisor"),
        ("/jdk/bin/java -Xmx512m -cp a.jar kafka.Kafka server.properties", "kafka"),
        ("/wheel/valkey-server 127.0.0.1:6379", "redis"),
        ("/usr/bin/redis-server *:6379", "redis"),
        ("sleep 5", OTHER),
    ],
)
def test_a_process_is_named_by_what_it_runs(command_line: str, service: str) -> None:
    assert service_named(command_line) == service


def test_what_a_phase_cost_is_the_difference_dearest_first() -> None:
    before = {"worker": 1.0, "gateway": 2.0, "redis": 3.0}
    after = {"worker": 1.5, "gateway": 4.0, "redis": 3.0}
    assert list(spent(before, after).items()) == [("gateway", 2.0), ("worker", 0.5)]


def test_a_process_that_began_in_between_counts_from_its_start() -> None:
    assert spent({}, {"engine": 0.25}) == {"engine": 0.25}


def test_this_process_is_the_load_generator_and_its_time_grows_with_its_work() -> None:
    clock = ProcessorClock()
    before = clock.read()
    give_up_at = time.monotonic() + 20
    while sum(os.times()[:2]) < before[LOAD_GENERATOR] + 0.05:
        assert time.monotonic() < give_up_at
    assert spent(before, clock.read())[LOAD_GENERATOR] >= 0.04
