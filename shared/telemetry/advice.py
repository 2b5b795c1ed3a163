"""What whoever reads a warning should do, by the warning's own words. Log lines carry it as `advice`.

Most of what is warned of repairs itself, and saying so spares somebody a night. A test finds every warning in the
code here. Warnings whose words say it themselves (after a semicolon, a colon or as a question) need no entry.
"""

_WAITS = "nothing: it is tried again until {} answers; if that lasts, docs/runbooks/{}.md"
_REDIS = _WAITS.format("Redis", "PenstockLedgerAway")
_KAFKA = _WAITS.format("Kafka", "PenstockKafkaAway")
_BUG = "a bug: keep this log, the stack included, and report it; the request has failed or will be tried again"

ADVICE: dict[str, str] = {
    # what waits for Redis or Kafka
    "append_waits": _REDIS,
    "claim_waits": _REDIS,
    "conclusion_waits": _WAITS.format("what `error` names", "PenstockLedgerAway"),
    "reclaim_waits": _REDIS,
    "release_failed": "nothing: the request is claimed again when the lease of this worker ends",
    "goodbye_not_heard": "nothing: the supervisor notices by the lease that this worker has gone",
    "hand_over_failed": _KAFKA,
    "not_passed_on": _KAFKA,
    "retry_waits_here": _KAFKA,
    "copy not sent, will be tried again": _KAFKA,
    "commit failed": _KAFKA,
    "commit not answered": _KAFKA,
    "kafka poll failed": _KAFKA,
    "kafka tells of an older commit than its last": "nothing: usual for a moment after a broker's crash; asked again",
    "reading had begun with an old commit": "nothing: what was read twice is dropped",
    "kafka producer not connected yet": _KAFKA,
    "kafka producer replaced after a failed record": "nothing: its successor sends what follows",
    "failed, will be tried again": "nothing where `error` says what is away; with a stack it is a bug to report",
    "circuit breaker": "an open one protects what is away or overloaded: look at that; it closes by itself",
    # engines and workers
    "engine_lost": "nothing at first: it is started again; again and again, docs/runbooks/PenstockEngineRestarts.md",
    "engine_lost_requests": "nothing: they are claimed again and go on from the ledger",
    "engine_sent_garbage": _BUG,
    "engine-down": "docs/runbooks/PenstockEngineRestarts.md, if it is not ready again within a minute",
    "worker-lost": "docs/runbooks/PenstockTargetDown.md, if it does not come back by itself",
    "giving_up": "look at the error; the process ends, and whoever runs it starts it again",
    "slower_attention": "install what `reason` misses (`penstock doctor`), or accept the speed",
    "stream_of_another_engine": "give the pool one model, one precision and one version, or wait for the rollout's end",
    "a dead worker was taken out of its group": "nothing: its partitions have moved",
    # requests
    "dead_letter": "`penstock dlq list`; docs/runbooks/PenstockDeadLetters.md",
    "record_broke_intake": _BUG,
    "intake_failed": _BUG,
    "the gateway failed": _BUG,
    "result_refused": "raise PENSTOCK_KAFKA_MAX_MESSAGE_BYTES and the topic's limit, or lower max_tokens",
    "reply_not_sent": "create the reply topic that the request names; the result is on inference.results",
    "record too large to be copied": "make the retry and resume topics' limit that of the request topics",
    "request failed, its record is gone": "keep request topics at least as long as deadlines: the record was deleted",
    "request of a lost worker not handed on": "nothing: Kafka hands it on when the worker's session ends",
    "requests of a lost worker handed on": "nothing: those not handed on come back when the worker's session ends",
    "a refused request could not be withdrawn": "nothing: it was told as refused; if it runs, its answer is dropped",
    # state
    "no longer the leader": "nothing: another supervisor leads; docs/runbooks/PenstockNoSupervisorActs.md if none does",
    "redis_lost_its_data": "nothing: workers and gateways write it anew; find out why it was lost",
    "redis_refilled": "nothing: work goes on",
    "control record ignored": "somebody writes what is no command to this topic: find who",
    "control record not handled": _KAFKA,
}


def advice_for(event: object) -> str | None:
    return ADVICE.get(event) if isinstance(event, str) else None
