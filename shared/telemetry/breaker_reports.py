"""What a circuit breaker tells metrics and the log. Fits a breaker's listener without knowing breakers."""

import structlog

from shared.telemetry.first_samples import begin_breaker
from shared.telemetry.metrics import BREAKER_REJECTIONS, BREAKER_TRANSITIONS, BREAKERS

logger = structlog.get_logger(__name__)

CLOSED = "closed"


class BreakerReports:
    """One per breaker. `kind` is one of a fixed set (`kafka`, `redis`, `worker`, `pool`), `name` says which one."""

    def __init__(self, kind: str, name: str = "") -> None:
        self._kind = kind
        self._name = name
        self._state = CLOSED
        BREAKERS.labels(kind, CLOSED).inc()
        begin_breaker(kind)

    def changed(self, before: str, after: str) -> None:
        BREAKERS.labels(self._kind, str(before)).dec()
        BREAKERS.labels(self._kind, str(after)).inc()
        BREAKER_TRANSITIONS.labels(self._kind, str(after)).inc()
        self._state = str(after)
        logger.warning("circuit breaker", breaker=self._kind, name=self._name, before=str(before), after=str(after))

    def rejected(self) -> None:
        BREAKER_REJECTIONS.labels(self._kind).inc()

    def forget(self) -> None:
        """What it protected is gone."""
        BREAKERS.labels(self._kind, self._state).dec()
