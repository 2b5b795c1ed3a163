"""Who is there, and what happened to them."""

from deploy.grafana.board import Board, Panel, Query, Shows, by, now, quantiles

FLEET = Board(
    uid="penstock-fleet",
    title="Penstock: fleet",
    description="Workers by state, their load, and what happened to them. Begin here.",
    rows={
        "Workers": (
            Panel("Workers by state", "short", now("penstock_workers", "pool", "state"), is_stacked=True),
            Panel("Supervisors that act", "short", (Query("sum(penstock_supervisor_is_leader)", "leaders"),)),
            Panel("Heartbeats", "reqps", by("penstock_heartbeats_total", "answer")),
            Panel("Fleet events", "short", by("penstock_fleet_events_total", "event", shows=Shows.FAULT)),
        ),
        "Load": (
            Panel("Running requests", "short", now("penstock_running_requests", "pool")),
            Panel("Waiting requests", "short", now("penstock_waiting_requests", "pool")),
            Panel("Intake paused", "short", (Query("sum(penstock_intake_paused)", "workers that take nothing"),)),
            Panel(
                "Engine starts",
                "s",
                (Query("max by (pool) (penstock_model_load_seconds)", "model load {{pool}}"),),
            ),
        ),
        "Policies": (
            Panel("Desired workers", "short", now("penstock_desired_workers", "pool")),
            Panel("Quarantined", "short", (Query("sum(penstock_quarantined_workers)", "workers in quarantine"),)),
            Panel("Error budget's burn, 5 min", "short", now("penstock_budget_burn", "lane", "level")),
        ),
        "When a worker is lost": (
            Panel(
                "Engine restarts",
                "short",
                by("penstock_engine_restarts_total", "pool", "reason", shows=Shows.FAULT),
            ),
            Panel("Requests taken over", "short", by("penstock_reassigned_requests_total", "pool", shows=Shows.FAULT)),
            Panel("Take-over", "s", quantiles("penstock_reassignment_seconds", shows=Shows.FAULT)),
            Panel(
                "Take-overs to be tried again",
                "short",
                by("penstock_reassignment_failures_total", "reason", shows=Shows.FAULT),
            ),
            Panel("Redis refilled", "short", by("penstock_ledger_refills_total", shows=Shows.FAULT)),
        ),
    },
)
