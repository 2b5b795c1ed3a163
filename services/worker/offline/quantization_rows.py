"""The rows of the quantization table: which checkpoints are made, how they are loaded, and what they take.

A checkpoint that a row needs is made once, in a directory that may be kept for the next run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.worker.engine.calibration.method_choice import QuantizationChoice
from services.worker.engine.checkpoints.weights import Checkpoint
from services.worker.engine.quantization.load_time import KEEP, KEEP_WITH_HEAD, NONE
from services.worker.offline.quantize_model import quantize_checkpoint

_WITH_HEAD = "-head8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`choice` None: the model as it is. `note` stands beside the figures."""

    name: str
    choice: QuantizationChoice | None
    note: str = ""
    rounds_head: bool = False

    @property
    def quantization(self) -> str:
        """How the engine loads it."""
        if self.choice is None:
            return NONE
        return KEEP_WITH_HEAD if self.rounds_head else KEEP

    @property
    def checkpoint(self) -> str:
        """The directory's name: what is done when it is loaded changes no file."""
        return self.name.removesuffix(_WITH_HEAD)


def _row(name: str, method: str, note: str = "", **options: int | bool) -> Row:
    choice = QuantizationChoice(method=method, **options)  # type: ignore[arg-type]
    return Row(name=name, choice=choice, note=note, rounds_head=name.endswith(_WITH_HEAD))


ROWS = (
    Row(name="16-bit", choice=None),
    _row("fp8", "fp8"),
    _row("int8-rtn", "rtn", bits=8),
    _row("int8-rtn-a8", "rtn", bits=8, activation_bits=8),
    _row("int8-smoothquant", "smoothquant", group_size=0),
    _row("int8-rtn-g64-a8", "rtn", bits=8, group_size=64, activation_bits=8),
    _row("int8-smoothquant-g64", "smoothquant", group_size=64),
    _row("int8-smoothquant-g64-head8", "smoothquant", "the head in 8 bits, too", group_size=64),
    _row("int4-rtn-g32", "rtn", bits=4, group_size=32),
    _row("int4-rtn-g64", "rtn", bits=4, group_size=64),
    _row("int4-awq-g64", "awq", group_size=64),
    _row("int4-gptq-g64", "gptq", group_size=64),
    _row("int4-gptq-g64-head8", "gptq", "the head in 8 bits, too", bits=4, group_size=64),
    _row("int4-gptq-g64-a8", "gptq", group_size=64, activation_bits=8),
    _row("int4-rtn-g128", "rtn", bits=4, group_size=128),
    _row("int4-awq-g128", "awq", group_size=128),
    _row("int4-gptq-g128", "gptq", group_size=128),
    _row("int4-rtn-row", "rtn", bits=4, group_size=0, is_symmetric=True),
    _row("int2-rtn-g64", "rtn", bits=2, group_size=64),
    _row("int2-gptq-g64", "gptq", bits=2, group_size=64),
)


def choose_rows(names: str) -> tuple[Row, ...]:
    """Names with commas between; empty is all. The 16-bit row is what others are compared with. Raises ValueError."""
    wanted = [name for name in names.split(",") if name]
    unknown = set(wanted) - {row.name for row in ROWS}
    if unknown:
        raise ValueError(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(row.name for row in ROWS)}")
    return tuple(row for row in ROWS if not wanted or row.name in wanted)


def make_checkpoint(row: Row, model: Path, made: Path, *, num_sequences: int) -> Path:
    """The directory to load. What lies in `made` under the row's name is used again."""
    if row.choice is None:
        return model
    directory = made / row.checkpoint
    if not (directory / "config.json").is_file():
        quantize_checkpoint(model, directory, row.choice, num_sequences=num_sequences)
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`total_bytes` of all weights; `bits_per_weight` of the matrices inside layers, with scales and zero points."""

    total_bytes: int
    bits_per_weight: float


def measure_size(checkpoint: Checkpoint) -> Size:
    total, inside, weights = 0, 0, 0
    for name in checkpoint.tensor_names():
        quantized = checkpoint.quantized(name)
        if quantized is not None:
            num_bytes, count = quantized.num_bytes, quantized.shape[0] * quantized.shape[1]
        else:
            tensor = checkpoint.tensor(name)
            num_bytes, count = tensor.numel() * tensor.element_size(), tensor.numel()
        total += num_bytes
        if name.startswith("model.layers.") and name.endswith("proj.weight"):
            inside, weights = inside + num_bytes, weights + count
    return Size(total_bytes=total, bits_per_weight=8 * inside / weights)
