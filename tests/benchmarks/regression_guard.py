"""Whether the kernels are still as much faster than what stands beside them as they were: `make bench-guard`.

Ratios of two ways that take turns in one process, one thread's processor time, medians: another machine or a busy
one moves both. Exits with 1 where a ratio fell below its limit, which leaves a fifth for noise and other processors.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.gather_attention import GatherAttention
from services.worker.engine.attention.native_attention import NativeAttention
from services.worker.engine.models.linear import (
    Float32Linear,
    Linear,
    NativeLinear,
    PackedLinear,
    onednn_packs_bfloat16,
)
from services.worker.engine.models.quantized_linear import QuantizedLinears
from services.worker.engine.native.library import (
    Products,
    choose_products,
    load_kernels,
    load_products,
    open_library,
)
from services.worker.engine.quantization.load_time import parse_rounding
from services.worker.engine.quantization.rounding import quantize, with_activations
from services.worker.offline.attention_shapes import AttentionShape, AttentionStep

_COLUMNS, _INNER, _COPIES = 4864, 896, 12
_CPU = torch.device("cpu")
_BFLOAT16 = ((1, (1.0, 1.5)), (8, (1.0, 1.3)), (32, (1.0, 0.9)), (512, (0.9, 0.7)))
"""Rows, and the least ratio to torch: with AVX-512, where it is oneDNN, and with AVX2 alone, where it is float32."""
_CODED = (
    ("rtn-int8-g64", 1, (1.4, 1.1)),
    ("rtn-int8-g64", 32, (1.2, 1.0)),
    ("rtn-int4-g64-a8", 1, (1.6, 1.6)),
    ("rtn-int4-g64-a8", 32, (1.2, 1.2)),
    ("rtn-int4-g64", 1, (1.3, 0.7)),
    ("rtn-int4-g64", 32, (0.5, 0.6)),
)
"""Scheme, rows, and the least ratio to our bfloat16: with AVX-512, and with AVX2 alone."""
Work = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """`ours` takes at most 1 / `at_least` of the time of `other`."""

    name: str
    ours: Work
    other: Work
    at_least: float


def ratio(guarded: Guarded, *, repeats: int = 9, clock: Callable[[], float] = time.thread_time) -> float:
    """How many times `ours` is as fast."""
    seconds: dict[Work, list[float]] = {guarded.ours: [], guarded.other: []}
    for _ in range(repeats):
        for work, found in seconds.items():
            started = clock()
            work()
            found.append(clock() - started)
    return statistics.median(seconds[guarded.other]) / statistics.median(seconds[guarded.ours])


def report(guards: Sequence[Guarded], measure: Callable[[Guarded], float]) -> tuple[str, bool]:
    """A table, and whether every ratio holds."""
    lines, holds = ["| | times as fast | at least | |", "|---|---|---|---|"], True
    for guarded in guards:
        found = measure(guarded)
        holds = holds and found >= guarded.at_least
        verdict = "holds" if found >= guarded.at_least else "FELL"
        lines.append(f"| {guarded.name} | {found:.2f} | {guarded.at_least} | {verdict} |")
    return "\n".join(lines) + "\n", holds


def each(layers: Sequence[Linear], rows: int) -> Work:
    inputs = torch.randn(rows, _INNER).bfloat16()
    return lambda: [layer(inputs) for layer in layers]


def product_guards() -> list[Guarded]:
    products, library = load_products(), open_library()
    if products is None or library is None or not products.are_fast:
        raise SystemExit("no native products here: AVX2 and a C compiler are needed")
    weights = [torch.randn(_COLUMNS, _INNER).bfloat16() for _ in range(_COPIES)]
    ours = [NativeLinear(products, weight, None) for weight in weights]
    torchs = [_by_torch(weight) for weight in weights]
    name, column = ("oneDNN", 0) if onednn_packs_bfloat16() else ("float32 by torch", 1)
    guards = [
        Guarded(
            name=f"bfloat16, {rows} rows: {name}",
            ours=each(ours, rows),
            other=each(torchs, rows),
            at_least=least[column],
        )
        for rows, least in _BFLOAT16
    ]
    if onednn_packs_bfloat16():
        guards.append(_both_ways(products, choose_products(library), each(ours, 32)))
    for scheme, rows, least in _CODED:
        guards.append(
            Guarded(
                name=f"{scheme}, {rows} rows: bfloat16",
                ours=each(quantized_layers(scheme, weights), rows),
                other=each(ours, rows),
                at_least=least[column],
            )
        )
    return guards


def _by_torch(weight: torch.Tensor) -> Linear:
    return PackedLinear(weight, None) if onednn_packs_bfloat16() else Float32Linear(weight, None, torch.bfloat16)


def _both_ways(products: Products, chosen: bool, multiply: Work) -> Guarded:
    """AVX-512 has two."""

    def by_the_other() -> None:
        products.use_wide(not chosen)
        multiply()
        products.use_wide(chosen)

    return Guarded(name="bfloat16, 32 rows: the way not chosen", ours=multiply, other=by_the_other, at_least=0.95)


def quantized_layers(name: str, weights: Sequence[torch.Tensor]) -> list[Linear]:
    rounding, kinds = parse_rounding(name), QuantizedLinears(torch.bfloat16, _CPU)
    assert rounding is not None
    made = []
    for weight in weights:
        tensor = quantize(weight.float(), rounding.weights)
        if rounding.activations is not None:
            tensor = with_activations(tensor, rounding.activations)
        made.append(kinds.make(tensor, None, wide_output=False))
    return made


def attention_guards() -> list[Guarded]:
    kernels = load_kernels(torch.bfloat16)
    assert kernels is not None
    step = AttentionStep(AttentionShape(), length=2048, is_prefill=False, device=_CPU, dtype=torch.bfloat16)

    def by(backend: AttentionBackend) -> Work:
        return lambda: step.attend(backend)

    native = by(NativeAttention(kernels))
    return [Guarded(name="decode at 2,048 tokens: gather", ours=native, other=by(GatherAttention()), at_least=5.0)]


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        table, holds = report([*product_guards(), *attention_guards()], ratio)
    sys.stdout.write(table)
    sys.exit(not holds)


if __name__ == "__main__":
    main()
