"""What quantized weights cost: the error of one tensor, or of a whole model on a text it was not calibrated with.

`python -P -m services.worker.offline.quantization_benchmark --tensor`
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.worker.offline.tensor_error import NUM_VALUES, TensorError, tensor_errors


def tensor_table(errors: list[TensorError]) -> Table:
    table = Table(
        title=f"sin(0.001 i), i < {NUM_VALUES:,}, symmetric",
        caption="s^2/12 is the error of a value that lies anywhere between two steps; scale is the mean of all.",
    )
    for column in ("bits", "scales", "scale s", "MSE", "s^2/12", "MAE", "max error", "SQNR dB"):
        table.add_column(column, justify="left" if column == "scales" else "right")
    for error in errors:
        table.add_row(
            str(error.bits),
            "per tensor" if error.group_size is None else f"per group of {error.group_size}",
            f"{error.scale:.6f}",
            f"{error.mean_squared:.3e}",
            f"{error.analytic:.3e}",
            f"{error.mean_absolute:.3e}",
            f"{error.largest:.3e}",
            f"{error.sqnr_decibels:.2f}",
        )
    return table


def _command(
    tensor: Annotated[bool, typer.Option("--tensor", help="The error of one known tensor.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what quantized weights cost."""
    if not tensor:
        raise typer.BadParameter("--tensor is what there is")
    errors = tensor_errors()
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(error) for error in errors], indent=2) + "\n")
    else:
        Console().print(tensor_table(errors))


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
