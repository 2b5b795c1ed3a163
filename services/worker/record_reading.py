"""A record's headers and value into `Work`. Knows formats, no claims and no engine."""

import time
from collections.abc import Callable

from services.worker.work import RecordDelivery, Work
from shared.contracts.errors import RequestError, UnsupportedVersion
from shared.contracts.topics import TopicNames
from shared.openai.decoding import decode_value
from shared.openai.envelope import read_envelope


class RecordReader:
    """Called once per delivery. Raises `PoisonMessage` for what cannot be decoded."""

    def __init__(
        self,
        *,
        names: TopicNames,
        pool: str,
        cluster: str,
        model: str,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._names = names
        self._pool = pool
        self._cluster = cluster
        self._model = model
        self._now_ns = now_ns

    def __call__(self, delivery: RecordDelivery) -> Work:
        record = delivery.record
        envelope = read_envelope(record, names=self._names, pool=self._pool, cluster=self._cluster)
        work = Work(
            delivery=delivery,
            envelope=envelope,
            model=self._model,
            received_ns=self._now_ns(),
            failures=envelope.retries,
        )
        try:
            work.request = decode_value(envelope, record.value)
        except (RequestError, UnsupportedVersion) as refusal:
            work.refusal = refusal
        else:
            work.model = work.request.model or self._model
        return work
