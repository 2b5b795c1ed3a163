"""Renders the catalogue as docs/metrics.md. `python -m shared.telemetry.metrics_document` rewrites the file."""

import sys
from collections.abc import Iterable
from pathlib import Path

from shared.telemetry.catalogue import CATALOGUE, LABELS, MetricDescription

PATH = Path(__file__).parents[2] / "docs" / "metrics.md"

_HEAD = """# Metrics

Generated from `shared/telemetry/metrics.py` by `python -m shared.telemetry.metrics_document`: edit there.
Every service serves them at `/metrics` in the Prometheus text or OpenMetrics format.
"""


def _row(metric: MetricDescription) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.meaning} | {metric.what_to_do} |"


def render_metrics_document(metrics: Iterable[MetricDescription]) -> str:
    descriptions = list(metrics)
    used = sorted({label for metric in descriptions for label in metric.labels})
    lines = [
        _HEAD,
        "| name | kind | unit | labels | what it means | what to do |",
        "|---|---|---|---|---|---|",
        *map(_row, descriptions),
        "",
        "## Labels",
        "",
        "All are small sets that no client can enlarge; the catalogue refuses a label that is not in this list.",
        "",
        "| label | values |",
        "|---|---|",
        *(f"| `{label}` | {LABELS[label]} |" for label in used),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    import shared.telemetry.metrics  # noqa: F401  (declares them)

    PATH.write_text(render_metrics_document(CATALOGUE.values()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
