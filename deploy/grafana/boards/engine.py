"""The engine: batches, cache, tokens."""

from deploy.grafana.board import WINDOW, Board, Panel, Query, Shows, by, now, quantiles

ENGINE = Board(
    uid="penstock-engine",
    title="Penstock: engine",
    description="Steps, batches, KV cache and tokens of each pool.",
    rows={
        "Steps": (
            Panel("Step time", "s", quantiles("penstock_engine_step_seconds", "pool")),
            Panel("Batch size", "short", quantiles("penstock_batch_size", "pool")),
            Panel("Tokens", "short", by("penstock_tokens_total", "pool", "kind")),
            Panel(
                "Prompt tokens found in the prefix cache",
                "percentunit",
                (
                    Query(
                        f'sum by (pool) (rate(penstock_tokens_total{{kind="cached"}}[{WINDOW}]))'
                        f' / sum by (pool) (rate(penstock_tokens_total{{kind=~"cached|prompt"}}[{WINDOW}]))',
                        "{{pool}}",
                    ),
                ),
            ),
        ),
        "Speculation": (
            Panel("Drafted tokens by verdict", "short", by("penstock_draft_tokens_total", "pool", "verdict")),
            Panel(
                "Share accepted",
                "percentunit",
                (
                    Query(
                        'sum by (pool) (rate(penstock_draft_tokens_total{verdict="accepted"}[$__rate_interval]))'
                        " / sum by (pool) (rate(penstock_draft_tokens_total[$__rate_interval]))",
                        "{{pool}}",
                    ),
                ),
            ),
            Panel("Time spent on drafts", "s", by("penstock_draft_seconds_total", "pool")),
        ),
        "KV cache": (
            Panel("Blocks", "short", now("penstock_kv_blocks", "pool", "state"), is_stacked=True),
            Panel(
                "Share in use",
                "percentunit",
                (
                    Query(
                        'sum by (pool) (penstock_kv_blocks{state="used"}) / sum by (pool) (penstock_kv_blocks)',
                        "{{pool}}",
                    ),
                ),
            ),
            Panel("Preemptions", "short", by("penstock_preemptions_total", "pool", shows=Shows.FAULT)),
        ),
    },
)
