"""The circuit breaker of a service's questions to Redis, from the settings. Its state is a metric and a log line."""

from shared.resilience.breaker_rules import BreakerRules
from shared.resilience.circuit_breaker import CircuitBreaker
from shared.resilience.clock import Clock
from shared.settings.redis import RedisSettings
from shared.telemetry.breaker_reports import BreakerReports


def redis_breaker(settings: RedisSettings, *, clock: Clock) -> CircuitBreaker:
    rules = BreakerRules(failures_to_open=settings.breaker_failures, open_seconds=settings.breaker_open_ms / 1_000)
    return CircuitBreaker(rules, clock=clock, listener=BreakerReports("redis"))
