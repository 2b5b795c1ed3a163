"""Which pool serves which model, and which worker holds which partition, by what the heartbeats say.

Pure state and a clock: it hears heartbeats, forgets silent workers, and answers. It knows no Kafka and no HTTP.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from shared.contracts.errors import NoWorkerReady, UnknownModel
from shared.contracts.fleet import Heartbeat, WorkerState
from shared.contracts.identifiers import WorkerId

RETRY_AFTER_SECONDS = 2.0
"""When to ask again while no worker is ready: about the time of a failover."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAs:
    """In which numbers, and by how many ready workers."""

    dtype: str
    weights: str
    kv_cache: str
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model as `/v1/models` shows it. `speculation_methods`: those that every ready worker of the pool has."""

    name: str
    pool: str
    max_model_tokens: int
    served_as: tuple[ServedAs, ...]
    speculation: str
    speculation_methods: tuple[str, ...]


@dataclass(slots=True)
class _Sighting:
    heartbeat: Heartbeat
    heard_at: float


class FleetDirectory:
    """What this gateway believes about the fleet. Ages are of receipt: clocks of other machines do not matter."""

    def __init__(
        self,
        *,
        max_age_seconds: float,
        model_memory_seconds: float,
        default_pool: str,
        monotonic: Callable[[], float],
    ) -> None:
        self._max_age_seconds = max_age_seconds
        self._model_memory_seconds = model_memory_seconds
        self._default_pool = default_pool
        self._monotonic = monotonic
        self._workers: dict[WorkerId, _Sighting] = {}
        self._models_seen: dict[str, float] = {}
        self._last_heard_at: float | None = None

    def observe(self, heartbeat: Heartbeat) -> None:
        """Fold one heartbeat in. Late ones of the same incarnation and a predecessor's are dropped."""
        now = self._monotonic()
        self._last_heard_at = now
        known = self._workers.get(heartbeat.worker_id)
        if known is not None and _is_older(heartbeat, known.heartbeat):
            return
        for model in heartbeat.models:
            self._models_seen[model] = now
        if heartbeat.state is WorkerState.STOPPED:
            self._workers.pop(heartbeat.worker_id, None)
            return
        self._workers[heartbeat.worker_id] = _Sighting(heartbeat, now)

    def live_workers(self) -> list[Heartbeat]:
        """The last heartbeat of every worker heard lately; the silent ones are forgotten."""
        horizon = self._monotonic() - self._max_age_seconds
        silent = [worker_id for worker_id, seen in self._workers.items() if seen.heard_at < horizon]
        for worker_id in silent:
            del self._workers[worker_id]
        return [seen.heartbeat for seen in self._workers.values()]

    def ready_workers(self, pool: str) -> list[Heartbeat]:
        """Those that take requests: who is quarantined holds its partitions and takes nothing."""
        return [
            worker
            for worker in self.live_workers()
            if worker.pool == pool and worker.state is WorkerState.READY and not worker.is_quarantined
        ]

    def pool_of(self, model: str) -> str:
        """The pool to ask for `model`. Raises `NoWorkerReady` (come back) or `UnknownModel` (never here)."""
        ready = [
            worker for worker in self.live_workers() if worker.state is WorkerState.READY and model in worker.models
        ]
        pools = {worker.pool for worker in ready if not worker.is_quarantined}
        if self._default_pool in pools:
            return self._default_pool
        if pools:
            return min(pools)
        if self._was_seen_lately(model):
            reason = ": all of them are quarantined" if ready else ""
            raise NoWorkerReady(
                f"no worker is ready for the model `{model}` right now{reason}",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if not self.is_heard:
            raise NoWorkerReady("no worker has been heard of lately", retry_after_seconds=RETRY_AFTER_SECONDS)
        raise UnknownModel(f"the model `{model}` does not exist here", param="model")

    def models(self) -> list[ServedModel]:
        """Every model that a ready worker serves, by name."""
        found: dict[str, ServedModel] = {}
        for worker in self.live_workers():
            if worker.state is not WorkerState.READY:
                continue
            for name in worker.models:
                known = found.get(name)
                if known is None or worker.pool == self._default_pool != known.pool:
                    serving = self._serving(name, worker.pool)
                    found[name] = ServedModel(
                        name=name,
                        pool=worker.pool,
                        max_model_tokens=worker.max_model_tokens,
                        served_as=_served_as(serving),
                        speculation=worker.speculation,
                        speculation_methods=tuple(
                            method
                            for method in worker.speculation_methods
                            if all(method in other.speculation_methods for other in serving)
                        ),
                    )
        return sorted(found.values(), key=lambda model: model.name)

    def _serving(self, model: str, pool: str) -> list[Heartbeat]:
        return [
            worker
            for worker in self.live_workers()
            if worker.state is WorkerState.READY and worker.pool == pool and model in worker.models
        ]

    @property
    def is_heard(self) -> bool:
        """Some heartbeat came lately: the control topic reaches us."""
        return self._last_heard_at is not None and self._monotonic() - self._last_heard_at <= self._max_age_seconds

    def _was_seen_lately(self, model: str) -> bool:
        seen_at = self._models_seen.get(model)
        return seen_at is not None and self._monotonic() - seen_at <= self._model_memory_seconds


def _served_as(workers: list[Heartbeat]) -> tuple[ServedAs, ...]:
    """Most often first: while a pool's weights are being exchanged its workers differ."""
    kinds = Counter((worker.dtype, worker.weights, worker.kv_cache) for worker in workers)
    return tuple(
        ServedAs(dtype=dtype, weights=weights, kv_cache=kv_cache, workers=count)
        for (dtype, weights, kv_cache), count in kinds.most_common()
    )


def _is_older(heartbeat: Heartbeat, known: Heartbeat) -> bool:
    if heartbeat.incarnation == known.incarnation:
        return heartbeat.sequence_number < known.sequence_number
    return heartbeat.sent_at_ms < known.sent_at_ms
