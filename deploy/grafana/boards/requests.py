"""What callers feel: waiting, streaming, refusals."""

from deploy.grafana.board import WINDOW, Board, Panel, Query, Shows, by, now, quantiles

REQUESTS = Board(
    uid="penstock-requests",
    title="Penstock: requests",
    description="Latency by phase (queue, prefill, decode), rates, outcomes and refusals.",
    rows={
        "Latency": (
            Panel("Time to first token", "s", quantiles("penstock_time_to_first_token_seconds", "pool", "lane")),
            Panel("Queue: until a worker's claim", "s", quantiles("penstock_queue_wait_seconds", "pool", "lane")),
            Panel("Decode: between two tokens", "s", quantiles("penstock_inter_token_latency_seconds", "pool")),
            Panel("First event at the client", "s", quantiles("penstock_gateway_first_event_seconds", "pool")),
        ),
        "Traffic": (
            Panel("Results", "reqps", by("penstock_results_total", "pool", "outcome")),
            Panel("HTTP", "reqps", by("penstock_http_requests_total", "route", "status")),
            Panel("HTTP duration", "s", quantiles("penstock_http_request_duration_seconds", "route")),
            Panel("Open streams", "short", (Query("sum(penstock_open_streams)", "streams"),)),
        ),
        "Refused and failed": (
            Panel("Admission", "reqps", by("penstock_admission_total", "lane", "answer")),
            Panel("Errors", "reqps", by("penstock_errors_total", "code", "blame", shows=Shows.FAULT)),
            Panel(
                "Share of results that are the platform's failures",
                "percentunit",
                (
                    Query(
                        f'sum(rate(penstock_errors_total{{blame="platform"}}[{WINDOW}]))'
                        f" / sum(rate(penstock_results_total[{WINDOW}]))",
                        "failed",
                        Shows.FAULT,
                    ),
                ),
            ),
            Panel(
                "Clients that left",
                "reqps",
                (Query(f"sum(rate(penstock_abandoned_requests_total[{WINDOW}]))", "abandoned", Shows.FAULT),),
            ),
        ),
        "The way": (
            Panel("Publishing to Kafka", "s", quantiles("penstock_gateway_publish_seconds")),
            Panel("Ledger round trips, p99 by verb", "s", quantiles("penstock_ledger_latency_seconds", "verb")[2:]),
            Panel("Kafka operations, p99", "s", quantiles("penstock_kafka_latency_seconds", "operation")[2:]),
            Panel(
                "Streams that read the log",
                "short",
                by("penstock_stream_recoveries_total", "reason", shows=Shows.FAULT),
            ),
        ),
        "Load": (Panel("Records in flight", "short", now("penstock_records_in_flight")),),
    },
)
