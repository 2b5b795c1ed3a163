"""Every dashboard, and the files that Grafana is provisioned with; `make docs` writes them."""

from __future__ import annotations

from pathlib import Path

import shared.telemetry.metrics  # noqa: F401  (declares the catalogue)
from deploy.grafana.board import Board
from deploy.grafana.boards.delivery import DELIVERY
from deploy.grafana.boards.engine import ENGINE
from deploy.grafana.boards.fleet import FLEET
from deploy.grafana.boards.requests import REQUESTS
from deploy.grafana.drawing import draw

FOLDER = Path(__file__).parent / "provisioning" / "dashboards"
BOARDS: tuple[Board, ...] = (FLEET, REQUESTS, ENGINE, DELIVERY)


def dashboard_files() -> dict[Path, str]:
    return {FOLDER / f"{board.uid}.json": draw(board) for board in BOARDS}
