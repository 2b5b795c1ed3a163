"""Boards as Grafana wants them, by Grafana's own builder library. Decides looks only."""

from __future__ import annotations

import json
from itertools import count

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as dashboard_builder
from grafana_foundation_sdk.builders import prometheus as prometheus_builder
from grafana_foundation_sdk.builders import timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef

from deploy.grafana.board import Board, Panel
from shared.telemetry.catalogue import CATALOGUE

_SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
_PANELS_PER_ROW = 4
_COLUMNS = 24
_HEIGHT = 8


def draw(board: Board) -> str:
    """The dashboard's JSON, the same for the same board."""
    dashboard = (
        dashboard_builder.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["penstock"])
        .timezone("browser")
        .refresh("5s")
        .time("now-15m", "now")
        .readonly()
        .link(
            dashboard_builder.DashboardLink("Penstock")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["penstock"])
            .as_dropdown(as_dropdown=True)
            .keep_time(keep_time=True)
        )
    )
    for title, panels in board.rows.items():
        dashboard.with_row(dashboard_builder.Row(title))
        for panel in panels:
            dashboard.with_panel(_panel(panel))
    return (
        json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(dashboard.build())), indent=1, sort_keys=True) + "\n"
    )


def _panel(panel: Panel) -> timeseries.Panel:
    drawn = (
        timeseries.Panel()
        .title(panel.title)
        .description(description_of(panel))
        .datasource(_SOURCE)
        .unit(panel.unit)
        .min(0)
        .height(_HEIGHT)
        .span(_COLUMNS // _PANELS_PER_ROW)
        .fill_opacity(20 if panel.is_stacked else 5)
        .legend(
            common_builder.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.LIST)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
    )
    if panel.is_stacked:
        drawn.stacking(common_builder.StackingConfig().mode(common_model.StackingMode.NORMAL))
    for letter, query in zip(map(chr, count(ord("A"))), panel.queries, strict=False):
        drawn.with_target(
            prometheus_builder.Dataquery()
            .datasource(_SOURCE)
            .expr(query.expression)
            .legend_format(query.legend)
            .ref_id(letter)
            .range()
            .exemplar(exemplar="_bucket" in query.expression)
        )
    return drawn


def description_of(panel: Panel) -> str:
    """The catalogue's meaning and advice, so that nobody looks them up at night."""
    lines = []
    for name in panel.metrics:
        entry = CATALOGUE[name]
        lines.append(f"{entry.meaning}\n\nWhat to do: {entry.what_to_do}")
    return "\n\n".join(lines)
