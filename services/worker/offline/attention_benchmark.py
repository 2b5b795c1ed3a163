"""Every attention backend side by side by length of the context: time, memory, share of what the machine can do.

`python -P -m services.worker.offline.attention_benchmark --lengths 512,4096`. Prefill is one sequence from nothing;
decode is a batch of single tokens over paged contexts. A backend that cannot run here is a row that says why.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.backend_selection import BACKENDS, AttentionNeeds, CannotRun, make_backend
from services.worker.engine.execution.placement import choose_device, choose_dtype
from services.worker.offline.attention_shapes import AttentionShape, AttentionStep
from services.worker.offline.machine_limits import MachineLimits, best_seconds, measure_limits
from services.worker.offline.peak_memory import peak_extra_bytes

LENGTHS = "512,1024,2048,4096,8192,16384"
_FLASH_1 = "version 1 has no block tables: it cannot read a paged cache (Dao et al. 2022)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRow:
    """`share`: of the machine's products per second (prefill) or bytes read per second (decode).

    `problem` says why nothing was measured; then the figures are None.
    """

    step: str
    length: int | None
    backend: str
    milliseconds: float | None = None
    extra_bytes: int | None = None
    share: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionResult:
    device: str
    dtype: str
    shape: AttentionShape
    limits: MachineLimits
    rows: tuple[AttentionRow, ...]


def measure_attention(
    shape: AttentionShape,
    *,
    lengths: list[int],
    backends: list[str],
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    longest_reference: int,
) -> AttentionResult:
    """Backends that cannot run come last, once each."""
    limits = measure_limits(device, dtype)
    usable: list[AttentionBackend] = []
    refused: list[AttentionRow] = []
    for name in backends:
        try:
            usable.append(_make(name, shape, device, dtype))
        except CannotRun as problem:
            refused.append(AttentionRow(step="both", length=None, backend=name, problem=str(problem)))
    rows: list[AttentionRow] = []
    for is_prefill in (True, False):
        for length in lengths:
            step = AttentionStep(shape, length=length, is_prefill=is_prefill, device=device, dtype=dtype)
            for backend in usable:
                row = AttentionRow(step="prefill" if is_prefill else "decode", length=length, backend=backend.name)
                if backend.name == "reference" and length > longest_reference:
                    rows.append(dataclasses.replace(row, problem="left out: --longest-reference"))
                    continue
                rows.append(_measured(row, backend, step, shape, limits, dtype=dtype, device=device, repeats=repeats))
    return AttentionResult(
        device=_device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        shape=shape,
        limits=limits,
        rows=(*rows, *refused),
    )


def _make(name: str, shape: AttentionShape, device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    if name == "flash-attn-1":
        raise CannotRun(_FLASH_1)
    is_card = device.type == "cuda" and torch.cuda.is_available()
    needs = AttentionNeeds(
        head_size=shape.head_size,
        group=shape.num_query_heads // shape.num_kv_heads,
        has_soft_cap=False,
        dtype=dtype,
        device=device,
        block_size_tokens=shape.block_size_tokens,
        capability=torch.cuda.get_device_capability(device) if is_card else None,
    )
    return make_backend(name, needs)


def _measured(
    row: AttentionRow,
    backend: AttentionBackend,
    step: AttentionStep,
    shape: AttentionShape,
    limits: MachineLimits,
    *,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
) -> AttentionRow:
    assert row.length is not None
    with torch.inference_mode():
        extra = peak_extra_bytes(lambda: step.attend(backend), device)
        seconds = best_seconds(lambda: step.attend(backend), device, repeats=repeats)
    if row.step == "prefill":
        share = shape.prefill_operations(row.length) / seconds / limits.multiply_per_second
    else:
        share = shape.decode_bytes(row.length, dtype) / seconds / limits.read_bytes_per_second
    return dataclasses.replace(row, milliseconds=1e3 * seconds, extra_bytes=extra, share=share)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    if torch.get_num_threads() == 1:
        return f"{device.type}, one thread, its processor time"
    return f"{device.type}, {torch.get_num_threads()} threads"


def result_tables(result: AttentionResult) -> Iterator[Table]:
    limits, shape = result.limits, result.shape
    heads = f"{shape.num_query_heads} query heads over {shape.num_kv_heads}, head size {shape.head_size}"
    for step, work, limit in (
        ("prefill", "one sequence", f"{limits.multiply_per_second / 1e9:,.0f} GFLOP/s of a matrix product"),
        ("decode", f"{shape.batch_size} sequences", f"{limits.read_bytes_per_second / 1e9:,.1f} GB/s read"),
    ):
        table = Table(title=f"{step}, {work}, {heads}, {result.dtype} on {result.device}", caption=f"share of {limit}")
        for column in ("length", "backend", "ms", "extra MiB", "share"):
            table.add_column(column, justify="left" if column == "backend" else "right")
        length = None
        for row in (row for row in result.rows if row.step == step):
            if length not in (None, row.length):
                table.add_section()
            table.add_row("" if row.length == length else f"{row.length:,}", row.backend, *_cells(row))
            length = row.length
        yield table
    table = Table(title="cannot run here")
    table.add_column("backend")
    table.add_column("why")
    for row in (row for row in result.rows if row.step == "both"):
        table.add_row(row.backend, row.problem.removeprefix(f"no {row.backend} attention: "))
    if table.row_count:
        yield table


def _cells(row: AttentionRow) -> tuple[str, str, str]:
    if row.milliseconds is None or row.share is None:
        return "", "", row.problem
    extra = "" if row.extra_bytes is None else f"{row.extra_bytes / 2**20:,.1f}"
    return f"{row.milliseconds:,.2f}", extra, f"{row.share:.1%}"


def parse_lengths(text: str) -> list[int]:
    """`512,4096`. Raises ValueError."""
    try:
        lengths = [int(part) for part in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 2:
        raise ValueError(f"--lengths must be whole numbers above 1 with commas between, not {text!r}")
    return lengths


def _command(
    lengths: Annotated[str, typer.Option(help="Lengths of the context, with commas between.")] = LENGTHS,
    backend: Annotated[str, typer.Option(help="Backends, with commas between; empty: all.")] = "",
    batch: Annotated[int, typer.Option(min=1, help="Sequences of a decode step.")] = 8,
    query_heads: Annotated[int, typer.Option(min=1)] = 14,
    kv_heads: Annotated[int, typer.Option(min=1)] = 2,
    head_size: Annotated[int, typer.Option(min=2)] = 64,
    block_size: Annotated[int, typer.Option(min=1, help="Positions of a block; flash-attn 2 needs 256.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each; the shortest counts.")] = 2,
    longest_reference: Annotated[int, typer.Option(help="The reference is left out above this.")] = 2048,
    num_threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare attention backends."""
    try:
        if query_heads % kv_heads:
            raise ValueError(f"--query-heads {query_heads} is no multiple of --kv-heads {kv_heads}")
        names = backend.split(",") if backend else ["flash-attn-1", *BACKENDS]
        unknown = [name for name in names if name not in ("flash-attn-1", *BACKENDS)]
        if unknown:
            raise ValueError(f"unknown attention backend {unknown[0]!r}: flash-attn-1, {', '.join(BACKENDS)}")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        place = choose_device(device)
        result = measure_attention(
            AttentionShape(
                num_query_heads=query_heads,
                num_kv_heads=kv_heads,
                head_size=head_size,
                block_size_tokens=block_size,
                batch_size=batch,
            ),
            lengths=parse_lengths(lengths),
            backends=names,
            device=place,
            dtype=choose_dtype(dtype, checkpoint_dtype="bfloat16", device=place),
            repeats=repeats,
            longest_reference=longest_reference,
        )
    except ValueError as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    else:
        for table in result_tables(result):
            Console().print(table)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
