"""`penstock trace`: one request as a waterfall of its spans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.commands.ask import DATA_DIR_OPTION
from services.cli.console import CommandFailed, out, plain_errors
from services.cli.embedded.span_store import SpanStore
from services.cli.waterfall import waterfall

PREFIXES = ("chatcmpl-", "cmpl-")


def trace(
    request_id: Annotated[str, typer.Argument(help="Request id (x-request-id, or the result's ce_id).")],
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Draw the trace of a request, from HTTP or Kafka to the last token."""
    with plain_errors():
        database = data_dir / "spans.sqlite"
        if not database.exists():
            raise CommandFailed(f"{data_dir} holds no spans", hint="name the stack's directory with --data-dir")
        bare_id = request_id
        for prefix in PREFIXES:
            bare_id = bare_id.removeprefix(prefix)
        spans = SpanStore(database).spans_of_request(bare_id)
        if not spans:
            raise CommandFailed(
                f"no span of request {bare_id} is stored",
                hint="spans arrive some seconds after the request; head sampling may have left it out",
            )
        out.print(waterfall(spans))
