"""Nothing lost, nothing twice: what Kafka and the ledger say about it."""

from deploy.grafana.board import WINDOW, Board, Panel, Query, Shows, by, now

DELIVERY = Board(
    uid="penstock-delivery",
    title="Penstock: delivery",
    description="Lag, claims, retries, dead letters, and the health of Kafka and Redis as we see it.",
    rows={
        "Intake": (
            Panel("Consumer lag", "short", now("penstock_consumer_lag", "topic")),
            Panel("Claims", "reqps", by("penstock_claims_total", "pool", "answer")),
            Panel(
                "Oldest unfinished record",
                "s",
                (Query("max(penstock_oldest_unfinished_age_seconds)", "age"),),
            ),
            Panel("Since the last poll", "s", (Query("max(penstock_last_poll_age_seconds)", "age"),)),
        ),
        "What went wrong": (
            Panel("Dead letters", "short", by("penstock_dead_letters_total", "pool", "code", shows=Shows.FAULT)),
            Panel("Retries", "short", by("penstock_retries_total", "pool", "code", shows=Shows.FAULT)),
            Panel("Ledger failures", "short", by("penstock_ledger_failures_total", "verb", shows=Shows.FAULT)),
            Panel(
                "Kafka failures", "short", by("penstock_kafka_failures_total", "operation", "reason", shows=Shows.FAULT)
            ),
        ),
        "Circuit breakers": (
            Panel("By state", "short", now("penstock_breakers", "breaker", "state")),
            Panel(
                "Transitions", "short", by("penstock_breaker_transitions_total", "breaker", "state", shows=Shows.FAULT)
            ),
            Panel("Calls refused", "reqps", by("penstock_breaker_rejections_total", "breaker", shows=Shows.FAULT)),
            Panel(
                "Spans that were lost",
                "short",
                (Query(f"sum(rate(penstock_spans_dropped_total[{WINDOW}]))", "dropped", Shows.FAULT),),
            ),
        ),
    },
)
