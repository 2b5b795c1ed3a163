"""How the quantization benchmark's figures are shown. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.table import Table

from services.worker.offline.model_accuracy import Accuracy
from services.worker.offline.quantization_rows import Size
from services.worker.offline.tensor_error import NUM_VALUES, TensorError

_MEGABYTE = 1_000_000


class ShownRow(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def size(self) -> Size: ...
    @property
    def accuracy(self) -> Accuracy: ...


class ShownResult(Protocol):
    @property
    def model(self) -> str: ...
    @property
    def held_text(self) -> str: ...
    @property
    def num_calibration_sequences(self) -> int: ...
    @property
    def rows(self) -> Sequence[ShownRow]: ...


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


def accuracy_table(result: ShownResult) -> Table:
    sample = result.rows[0].accuracy
    table = Table(
        title=f"{result.model}: perplexity over {sample.num_tokens:,} tokens of held text {result.held_text}",
        caption=(
            f"Agreement and KL(16 bit || row) over {sample.num_compared_tokens:,} of them; calibrated on "
            f"{result.num_calibration_sequences} x 256 tokens of another text."
        ),
    )
    for column in ("row", "perplexity", "same best token", "KL", "bits/weight", "MB", ""):
        table.add_column(column, justify="left" if column in ("row", "") else "right")
    for row in result.rows:
        table.add_row(
            row.name,
            f"{row.accuracy.perplexity:.3f}",
            f"{row.accuracy.agreement:.1%}",
            f"{row.accuracy.divergence:.4f}",
            f"{row.size.bits_per_weight:.2f}",
            f"{row.size.total_bytes / _MEGABYTE:.0f}",
            row.note,
        )
    return table
