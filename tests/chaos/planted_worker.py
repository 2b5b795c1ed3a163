"""A worker with a bug planted by wiring, to prove that the oracle sees it: `python -P -m tests.chaos.planted_worker`.

CHAOS_PLANT is `skip-fence` (appends and seals are accepted from whoever asks, the last seal wins) or `commit-early`
(a record's offset is done when the record is taken, not when it is answered). The services know nothing of it.
"""

import hashlib
import os
import sys
from functools import cache

import services.worker.__main__ as worker
from services.worker.request_path import RequestPath
from services.worker.work import RecordDelivery
from shared.ledger import connection, scripts

SKIP_FENCE, COMMIT_EARLY = "skip-fence", "commit-early"
_FENCES = {
    "append": (b"if not values[1] or values[1] ~= token then return {FENCED, 0, 0} end",),
    "seal": (
        b"if record.sealed then return {'sealed', redis.call('GET', outcome_key(id)) or ''} end",
        b"if record.finished or not record.token or record.token ~= token then return {'fenced'} end",
    ),
}


@cache
def script_without_fence(name: str) -> scripts.Script:
    source = scripts.load_script(name).source
    for fence in _FENCES.get(name, ()):
        if source.count(fence) != 1:
            raise RuntimeError(f"{name}.lua has changed: the bug cannot be planted")
        source = source.replace(fence, b"")
    return scripts.Script(
        name=name, source=source, sha1=hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    )


def skip_the_fence() -> None:
    connection.load_script = script_without_fence


def commit_early() -> None:
    deliver = RequestPath.deliver

    def deliver_and_forget(path: RequestPath, delivery: RecordDelivery) -> None:
        delivery.done()
        deliver(path, delivery)

    RequestPath.deliver = deliver_and_forget  # type: ignore[method-assign]


PLANTS = {SKIP_FENCE: skip_the_fence, COMMIT_EARLY: commit_early}

if __name__ == "__main__":
    PLANTS[os.environ["CHAOS_PLANT"]]()
    sys.exit(worker.main())
