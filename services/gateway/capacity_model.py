"""How long a request would wait before it starts, by what the heartbeats say. Pure state and a clock.

Tokens here are output tokens that requests *ask* for. A worker says how fast these become fewer, computed or not
needed after all, so that early stops need no guess. A low rate counts only while its batch is full: a worker with room
is slow because little is asked of it. It knows nothing of limits, tenants and HTTP.

    wait = requests that will not find room in a batch x mean tokens of a request / tokens drained per second

Source: J. Little, "A Proof for the Queuing Formula L = lambda W", 1961.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.fleet import Heartbeat
from shared.contracts.identifiers import Incarnation
from shared.resilience.clock import Clock

_SMOOTHING = 0.3
"""Of a new measurement; heartbeats come twice a second and already average over 5 s."""
_LEAST_OF_STEPS = 0.5
"""Of what a full batch's steps bring, a token each: the measured rate remembers the seconds before it was full."""
_DEFAULT_TOKENS = 128.0
_REPORT_DELAY_SECONDS = 0.1
"""From admitting a request to its worker knowing it; what was admitted before is in the next heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`wait_seconds` None: every batch is full and no rate was measured yet."""

    wait_seconds: float | None
    requests_per_second: float
    """At which places in batches become free; 0 when unknown."""
    seconds_per_token: float
    """Of one answer, in the fullest batch."""


@dataclass(slots=True)
class _Worker:
    heartbeat: Heartbeat
    heard_at: float
    rate: float | None = None


class CapacityModel:
    """One per gateway, for all pools."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._workers: dict[Incarnation, _Worker] = {}
        self._admitted: dict[str, dict[int, float]] = {}
        self._tickets = itertools.count()
        self._tokens: dict[str, float] = {}

    def observe(self, heartbeat: Heartbeat) -> None:
        now = self._clock.monotonic()
        known = self._workers.get(heartbeat.incarnation)
        if known is None:
            self._workers[heartbeat.incarnation] = known = _Worker(heartbeat, now)
        known.heartbeat, known.heard_at = heartbeat, now
        rate = heartbeat.drained_tokens_per_second
        is_full = heartbeat.running_requests > 0 and not _room(heartbeat, self._asked_tokens(heartbeat.pool))
        if rate <= 0:
            return
        if is_full and heartbeat.step_seconds > 0:
            rate = max(rate, _LEAST_OF_STEPS * _in_batch(heartbeat) / heartbeat.step_seconds)
        if known.rate is None:
            known.rate = rate if is_full else None
        elif is_full or rate > known.rate:
            known.rate += _SMOOTHING * (rate - known.rate)

    def admitted(self, pool: str, tokens: int) -> int:
        """A request goes to the pool now; its worker will tell of it soon. Returns a ticket for `answered`."""
        ticket = next(self._tickets)
        self._admitted.setdefault(pool, {})[ticket] = self._clock.monotonic()
        mean = self._tokens.get(pool)
        self._tokens[pool] = tokens if mean is None else mean + 0.05 * (tokens - mean)
        return ticket

    def answered(self, pool: str, ticket: int) -> None:
        """Nobody waits behind it any more, whether or not a heartbeat told of it."""
        self._admitted.get(pool, {}).pop(ticket, None)

    def _asked_tokens(self, pool: str) -> float:
        return max(1.0, self._tokens.get(pool, _DEFAULT_TOKENS))

    def forecast(self, pool: str, ready: Sequence[Heartbeat]) -> Forecast:
        """For the next request of `pool`, served by the workers of `ready`."""
        self._forget([worker.incarnation for worker in ready], pool)
        workers = [
            self._workers.get(beat.incarnation) or _Worker(beat, self._clock.monotonic())
            for beat in ready
            if not beat.is_quarantined
        ]
        mean_tokens = self._mean_tokens(pool, workers)
        seconds_per_token = max((worker.heartbeat.step_seconds for worker in workers), default=0.0)
        rates = [worker.rate for worker in workers if worker.rate is not None]
        # A worker that was never full yet is taken for an average one.
        rate = sum(rates) / len(rates) * len(workers) if rates else 0.0
        queue = sum(map(_queue, (worker.heartbeat for worker in workers))) + self._unreported(pool, workers)
        room = sum(_room(worker.heartbeat, mean_tokens) for worker in workers)
        wait: float | None = 0.0
        if queue >= room:
            wait = (queue - room + 1) * mean_tokens / rate if rate else None
        return Forecast(wait_seconds=wait, requests_per_second=rate / mean_tokens, seconds_per_token=seconds_per_token)

    def _mean_tokens(self, pool: str, workers: Sequence[_Worker]) -> float:
        """What a request asks for: of our own ones, else of what the workers hold."""
        if pool in self._tokens:
            return max(1.0, self._tokens[pool])
        tokens = sum(worker.heartbeat.outstanding_tokens for worker in workers)
        requests = sum(worker.heartbeat.running_requests + worker.heartbeat.waiting_requests for worker in workers)
        return max(1.0, tokens / requests) if requests else _DEFAULT_TOKENS

    def _unreported(self, pool: str, workers: Sequence[_Worker]) -> int:
        admitted = self._admitted.get(pool)
        if not admitted or not workers:
            return 0
        heard_at = sum(worker.heard_at for worker in workers) / len(workers)
        reported_until = heard_at - _REPORT_DELAY_SECONDS
        for ticket in [*itertools.takewhile(lambda ticket: admitted[ticket] < reported_until, admitted)]:
            del admitted[ticket]
        return len(admitted)

    def _forget(self, ready: Sequence[Incarnation], pool: str) -> None:
        if len(self._workers) > 4 * max(8, len(ready)):
            self._workers = {
                incarnation: worker
                for incarnation, worker in self._workers.items()
                if incarnation in ready or worker.heartbeat.pool != pool
            }


def _queue(worker: Heartbeat) -> int:
    return worker.queued_requests + worker.lag_records


def _in_batch(worker: Heartbeat) -> int:
    return max(0, worker.running_requests + worker.waiting_requests - worker.queued_requests)


def _room(worker: Heartbeat, mean_tokens: float) -> int:
    """Requests that would start at once: places in the batch that the KV cache can feed."""
    if worker.is_intake_paused:
        return 0
    by_batch = max(0, worker.max_running_requests - _in_batch(worker))
    if not worker.kv_block_tokens:
        return by_batch
    by_cache = int(worker.kv_blocks_free * worker.kv_block_tokens / mean_tokens)
    return min(by_batch, by_cache)
