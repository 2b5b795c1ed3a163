"""Every metric of the platform, with what it means and what to do when it moves. docs/metrics.md is made from it.

Refuses to know who increments them. Append here, in the style of the others, then run
`python -m shared.telemetry.metrics_document`.
"""

from shared.telemetry.catalogue import MILLISECONDS, SMALL_COUNTS, counter, gauge, histogram

# --- what a client feels

TIME_TO_FIRST_TOKEN = histogram(
    "penstock_time_to_first_token_seconds",
    unit="seconds",
    labels=("pool", "lane"),
    meaning="From the request's arrival at the gateway (or its record's timestamp) to its first token.",
    what_to_do="Compare with queue wait: equal means too few workers, unequal means long prompts or a slow engine.",
)
INTER_TOKEN_LATENCY = histogram(
    "penstock_inter_token_latency_seconds",
    unit="seconds",
    labels=("pool",),
    meaning="Between two tokens of one stream, as the worker emits them.",
    what_to_do="Grows with the batch and with prefill chunks: lower the step's token budget or add workers.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56),
)
QUEUE_WAIT = histogram(
    "penstock_queue_wait_seconds",
    unit="seconds",
    labels=("pool", "lane"),
    meaning="From the record's timestamp in Kafka to the worker's claim.",
    what_to_do="Scale the pool on the consumer lag; if lag is low, look for a paused or skewed partition.",
)
RESULTS = counter(
    "penstock_results_total",
    unit="requests",
    labels=("pool", "outcome"),
    meaning="Requests that ended, by outcome.",
    what_to_do="Failed or dead-lettered growing: read penstock_errors_total by code, then `penstock dlq`.",
)
ERRORS = counter(
    "penstock_errors_total",
    unit="errors",
    labels=("code", "blame"),
    meaning="Errors that a caller saw, by the code of the error class. Cancellations are not errors.",
    what_to_do="blame=platform is ours: look at the code's row in the README. blame=caller needs no action.",
)
TOKENS = counter(
    "penstock_tokens_total",
    unit="tokens",
    labels=("pool", "kind"),
    meaning="Tokens worked on: prompt tokens computed, prompt tokens reused from the prefix cache, completion tokens.",
    what_to_do="cached far below prompt with shared system prompts: check prefix-affinity routing.",
)

# --- gateway

HTTP_REQUESTS = counter(
    "penstock_http_requests_total",
    unit="requests",
    labels=("route", "status"),
    meaning="HTTP requests answered by the gateway, by route template and status.",
    what_to_do="429 and 503 are admission at work; 500 is a bug, find its x-request-id in the log.",
)
HTTP_DURATION = histogram(
    "penstock_http_request_duration_seconds",
    unit="seconds",
    labels=("route",),
    meaning="From the first byte of an HTTP request to the last byte of its answer.",
    what_to_do="For streams this is the stream's length; compare with time to first token instead.",
)
OPEN_STREAMS = gauge(
    "penstock_open_streams",
    unit="streams",
    meaning="Requests whose client is attached to this gateway now.",
    what_to_do="Falls to zero before a gateway stops; if it does not, clients hold idle connections.",
)
STREAM_RECOVERIES = counter(
    "penstock_stream_recoveries_total",
    unit="recoveries",
    labels=("reason",),
    meaning="Times a gateway read the ledger's log because the live channel had a gap, fell silent or was lost.",
    what_to_do="Steady growth without failovers: Redis drops slow subscribers, raise client-output-buffer-limit.",
)
ADMISSION = counter(
    "penstock_admission_total",
    unit="requests",
    labels=("lane", "answer"),
    meaning="Admission decisions: admitted, or refused and why.",
    what_to_do="Refusals while workers idle: compare the heartbeats' capacity with the configured limits.",
)

GATEWAY_FIRST_EVENT = histogram(
    "penstock_gateway_first_event_seconds",
    unit="seconds",
    labels=("pool",),
    meaning="From the arrival of a streaming HTTP request to the first event sent to its client.",
    what_to_do="Minus time to first token at the worker it is what the way costs: gateway, Kafka, ledger.",
)
GATEWAY_PUBLISH = histogram(
    "penstock_gateway_publish_seconds",
    unit="seconds",
    meaning="From handing a request to the Kafka client to the brokers' acknowledgement.",
    what_to_do="Above 50 ms: the brokers are slow or the gateway's event loop is busy.",
    buckets=MILLISECONDS,
)
ABANDONED_REQUESTS = counter(
    "penstock_abandoned_requests_total",
    unit="requests",
    meaning="Requests cancelled because their client disconnected and did not come back.",
    what_to_do="Many at once: clients time out sooner than the platform answers; look at queue wait.",
)

# --- worker: intake and delivery

CLAIMS = counter(
    "penstock_claims_total",
    unit="claims",
    labels=("pool", "answer"),
    meaning="The ledger's answers to claims: run, held, ended, sealed, finished, conflict, recovering.",
    what_to_do="held without failovers: two groups read one topic. recovering: Redis lost its data.",
)
CONSUMER_LAG = gauge(
    "penstock_consumer_lag",
    unit="records",
    labels=("topic",),
    meaning="Records behind the end of the partitions this worker holds.",
    what_to_do="Growing on every worker: scale out. On one: it is stuck, look at last poll age.",
)
LAST_POLL_AGE = gauge(
    "penstock_last_poll_age_seconds",
    unit="seconds",
    meaning="Since the worker last polled Kafka.",
    what_to_do="Above 10 s the group drops the worker: something holds its event loop, dump the stacks (SIGUSR1).",
)
OLDEST_UNFINISHED_AGE = gauge(
    "penstock_oldest_unfinished_age_seconds",
    unit="seconds",
    meaning="Age of the oldest record this worker has taken and not finished; commits cannot pass it.",
    what_to_do="Above the longest deadline: find that request with `penstock trace`, then drain the worker.",
)
RECORDS_IN_FLIGHT = gauge(
    "penstock_records_in_flight",
    unit="records",
    meaning="Records taken from Kafka whose offset is not done.",
    what_to_do="At the high mark intake pauses, which is right under load; never at zero load.",
)
INTAKE_PAUSED = gauge(
    "penstock_intake_paused",
    unit="boolean",
    meaning="1 while the worker polls without taking records because its engine is full.",
    what_to_do="1 for long with few running requests: KV blocks are short, see penstock_kv_blocks.",
)
DEAD_LETTERS = counter(
    "penstock_dead_letters_total",
    unit="records",
    labels=("pool", "code"),
    meaning="Records nobody could work on, by error code.",
    what_to_do="`penstock dlq` shows them; one code in a burst is one broken producer.",
)
RETRIES = counter(
    "penstock_retries_total",
    unit="requests",
    labels=("pool", "code"),
    meaning="Requests given another attempt, by the error that ended the last one.",
    what_to_do="Follow the code; a retry storm shows as this growing faster than results.",
)

# --- worker: engine

ENGINE_STEP = histogram(
    "penstock_engine_step_seconds",
    unit="seconds",
    labels=("pool",),
    meaning="One engine step: schedule, run, sample.",
    what_to_do="p99 far above p50: prefill chunks are too large, lower the step's token budget.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
BATCH_SIZE = histogram(
    "penstock_batch_size",
    unit="sequences",
    labels=("pool",),
    meaning="Sequences in one engine step.",
    what_to_do="Near 1 under load: intake is the bottleneck or requests do not reach this worker.",
    buckets=SMALL_COUNTS,
)
RUNNING_REQUESTS = gauge(
    "penstock_running_requests",
    unit="requests",
    labels=("pool",),
    meaning="Requests in the engine's batch now.",
    what_to_do="At its maximum with low batch throughput: the model is too big for the device.",
)
WAITING_REQUESTS = gauge(
    "penstock_waiting_requests",
    unit="requests",
    labels=("pool",),
    meaning="Requests claimed by the worker and not in the batch yet.",
    what_to_do="Growing: intake takes more than the engine can; lower the worker's high mark.",
)
KV_BLOCKS = gauge(
    "penstock_kv_blocks",
    unit="blocks",
    labels=("pool", "state"),
    meaning="KV cache blocks by state: used, cached (reusable prefix), free.",
    what_to_do="used near the total: expect preemptions; lower max running requests or give the cache more bytes.",
)
PREEMPTIONS = counter(
    "penstock_preemptions_total",
    unit="requests",
    labels=("pool",),
    meaning="Requests put back to waiting because KV blocks ran out; their tokens are computed again.",
    what_to_do="More than one per minute: the KV cache is too small for the concurrency.",
)
DRAFT_TOKENS = counter(
    "penstock_draft_tokens_total",
    unit="tokens",
    labels=("pool", "verdict"),
    meaning="Tokens that were drafted and then accepted or rejected by the model.",
    what_to_do="Mostly rejected: this pool's text is hard to guess; try another method of speculation.",
)
DRAFT_SECONDS = counter(
    "penstock_draft_seconds_total",
    unit="seconds",
    labels=("pool",),
    meaning="Time that steps spent on making drafts, before the model verified them.",
    what_to_do="A large share of the steps' time with few accepted tokens: the draft costs more than it brings.",
)
ENGINE_RESTARTS = counter(
    "penstock_engine_restarts_total",
    unit="restarts",
    labels=("pool", "reason"),
    meaning="Engine processes that died or hung and were started again; their requests resumed from the ledger.",
    what_to_do="Any growth: the worker's log has the exit code and the last lines of the engine.",
)
MODEL_LOAD = gauge(
    "penstock_model_load_seconds",
    unit="seconds",
    labels=("pool",),
    meaning="How long the engine's last start took, weights included.",
    what_to_do="Bounds the pause after an engine crash; a slow disk shows here.",
)

# --- what everything stands on

LEDGER_LATENCY = histogram(
    "penstock_ledger_latency_seconds",
    unit="seconds",
    labels=("verb",),
    meaning="Round trip of one verb of the ledger.",
    what_to_do="Above 10 ms: Redis is far, slow (`SLOWLOG`) or single-threaded at 100 %.",
    buckets=MILLISECONDS,
)
LEDGER_FAILURES = counter(
    "penstock_ledger_failures_total",
    unit="calls",
    labels=("verb",),
    meaning="Ledger calls that failed or timed out. Requests are not lost, they wait.",
    what_to_do="Check Redis; requests go on by themselves when it is back.",
)
KAFKA_LATENCY = histogram(
    "penstock_kafka_latency_seconds",
    unit="seconds",
    labels=("operation",),
    meaning="Kafka operations: acknowledged produce, commit, fetch of a record by its coordinates.",
    what_to_do="Produce above 100 ms: the brokers' disks or an in-sync replica is slow.",
    buckets=MILLISECONDS,
)
KAFKA_FAILURES = counter(
    "penstock_kafka_failures_total",
    unit="operations",
    labels=("operation", "reason"),
    meaning="Kafka operations that failed.",
    what_to_do="Check the brokers; a rejected record re-creates the producer by itself.",
)
BREAKERS = gauge(
    "penstock_breakers",
    unit="breakers",
    labels=("breaker", "state"),
    meaning="Circuit breakers of this process by what they protect and their state.",
    what_to_do="open for kafka or redis: it is away, calls fail at once instead of waiting. worker: `penstock fleet`.",
)
BREAKER_TRANSITIONS = counter(
    "penstock_breaker_transitions_total",
    unit="transitions",
    labels=("breaker", "state"),
    meaning="Changes of circuit breakers, by the state they changed to.",
    what_to_do="open again and again: what it protects answers probes and fails under load.",
)
BREAKER_REJECTIONS = counter(
    "penstock_breaker_rejections_total",
    unit="calls",
    labels=("breaker",),
    meaning="Calls that an open breaker refused at once.",
    what_to_do="Follows open breakers; nothing is lost, callers got 503 or wait.",
)
SPANS_DROPPED = counter(
    "penstock_spans_dropped_total",
    unit="spans",
    meaning="Spans that could not be exported. Tracing never holds up requests.",
    what_to_do="Check the OTLP endpoint; traces of this time have holes.",
)

# --- fleet

HEARTBEATS = counter(
    "penstock_heartbeats_total",
    unit="heartbeats",
    labels=("answer",),
    meaning="Heartbeats seen by the supervisor: accepted, repeated, or of an old incarnation.",
    what_to_do="Two heartbeats a second per worker; repeated ones come from Kafka redelivery and are harmless.",
)
WORKERS = gauge(
    "penstock_workers",
    unit="workers",
    labels=("pool", "state"),
    meaning="Workers by state, as the supervisor sees them.",
    what_to_do="ready below what you deployed: `penstock fleet`, then the log of the missing worker.",
)
FLEET_EVENTS = counter(
    "penstock_fleet_events_total",
    unit="events",
    labels=("event",),
    meaning="What happened to the fleet: joined, ready, lost, left, engine down, reassigned, elected.",
    what_to_do="Lost without a deployment: out of memory or a dead node.",
)
LEDGER_REFILLS = counter(
    "penstock_ledger_refills_total",
    unit="refills",
    meaning="Times that this worker put outcomes and cancellations from Kafka back into a Redis that lost its data.",
    what_to_do="Should be 0: give Redis a disk (`appendonly yes`) and `maxmemory-policy noeviction`.",
)
REASSIGNED_REQUESTS = counter(
    "penstock_reassigned_requests_total",
    unit="requests",
    labels=("pool",),
    meaning="Requests of lost workers copied to the resume topic.",
    what_to_do="Follows lost workers; without them, leases expire under load: see ledger latency.",
)
REASSIGNMENT_FAILURES = counter(
    "penstock_reassignment_failures_total",
    unit="requests",
    labels=("reason",),
    meaning="Requests whose takeover did not work this time; the next round tries again.",
    what_to_do="reason=record-gone: topic retention is shorter than the work. Others heal with Kafka and Redis.",
)
REASSIGNMENT_DURATION = histogram(
    "penstock_reassignment_seconds",
    unit="seconds",
    meaning="From seeing a lost incarnation to the last of its requests being copied.",
    what_to_do="Above 2 s clients notice: look at Kafka fetch latency and the number of requests per worker.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
IS_LEADER = gauge(
    "penstock_supervisor_is_leader",
    unit="boolean",
    meaning="1 on the supervisor that acts, 0 on those that watch.",
    what_to_do="The sum must be 1; 0 for more than 3 s means no supervisor can reach Redis.",
)
QUARANTINED_WORKERS = gauge(
    "penstock_quarantined_workers",
    unit="workers",
    meaning="Workers that take nothing new because they are much slower than their pool, or an operator said so.",
    what_to_do="Not zero for long: `penstock fleet`; look at the machine of that worker.",
)
DESIRED_WORKERS = gauge(
    "penstock_desired_workers",
    unit="workers",
    labels=("pool",),
    meaning="How many workers the supervisor wants a pool to have.",
    what_to_do="At its upper bound with a growing backlog: raise the bound. Far from penstock_workers: nobody scales.",
)
BUDGET_BURN = gauge(
    "penstock_budget_burn",
    unit="ratio",
    labels=("lane", "level"),
    meaning="How many times too fast the error budget is spent, over the last five minutes.",
    what_to_do="Above 14.4: `penstock slo` says which objective; scale out or refuse earlier.",
)
