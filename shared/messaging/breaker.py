"""The circuit breaker of a service's producer, from the settings. Its state is a metric and a log line."""

from shared.resilience.breaker_rules import BreakerRules
from shared.resilience.circuit_breaker import CircuitBreaker
from shared.resilience.clock import Clock
from shared.settings.kafka import KafkaSettings
from shared.telemetry.breaker_reports import BreakerReports


def kafka_breaker(settings: KafkaSettings, *, clock: Clock, name: str) -> CircuitBreaker:
    """For a producer whose topics exist: an unknown topic fails like a broker that is away."""
    rules = BreakerRules(failures_to_open=settings.breaker_failures, open_seconds=settings.breaker_open_ms / 1_000)
    return CircuitBreaker(rules, clock=clock, listener=BreakerReports("kafka", name))
