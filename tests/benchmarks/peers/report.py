"""One table and one JSON object from what was measured. Knows the goals; starts nothing."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.benchmarks.peers.rounds import Figures, Shape, limit_of

GOALS: dict[str, dict[str, float]] = {
    "vllm": {"batch 1": 1.7, "batch 8": 2.0, "batch 32": 2.0, "prefill 512": 1.8},
    "llama.cpp": {"batch 1": 1.0, "prefill 512": 1.5},
    "transformers": {"batch 1": 3.0, "batch 8": 3.0, "batch 32": 3.0, "prefill 512": 1.5},
    "limit": {"batch 1": 0.85, "batch 8": 0.75, "batch 32": 0.70, "prefill 512": 0.80},
}
OWN = "penstock"


@dataclass(slots=True, kw_only=True)
class Report:
    """`bandwidths` in bytes/s, `products` in products and sums/s by number format: the machine's, every round's."""

    model: str
    config: dict[str, Any]
    bandwidths: list[float] = field(default_factory=list)
    products: list[dict[str, float]] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    """What the run was asked for."""
    shapes: list[Shape] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    settings: dict[str, str] = field(default_factory=dict)
    first_token_seconds: dict[str, float] = field(default_factory=dict)
    resident_bytes: dict[str, int] = field(default_factory=dict)
    mixed: dict[str, Any] = field(default_factory=dict)
    state_before: dict[str, object] = field(default_factory=dict)
    state_after: dict[str, object] = field(default_factory=dict)

    @property
    def bandwidth(self) -> float:
        return statistics.median(self.bandwidths)

    @property
    def flops(self) -> dict[str, float]:
        return {name: statistics.median(one[name] for one in self.products) for name in self.products[0]}

    def limit(self, shape: Shape) -> float:
        head_size = self.config["hidden_size"] // self.config["num_attention_heads"]
        per_layer = 2 * 2 * self.config["num_key_value_heads"] * head_size
        values = layer_values(self.config)
        if not shape.is_prefill:
            values += self.config["vocab_size"] * self.config["hidden_size"]
        return limit_of(
            shape,
            weight_bytes=2 * values,
            cache_bytes_per_token=per_layer * self.config["num_hidden_layers"],
            bandwidth=self.bandwidth,
            flops=max(self.flops.values()),
        )

    def share_of_limit(self, shape: Shape) -> float | None:
        own = self.figures.spread(OWN, shape.name)
        return None if own is None else own.median / self.limit(shape)

    def as_json(self) -> dict[str, Any]:
        engines = list(self.first_token_seconds)
        return {
            "model": self.model,
            "arguments": self.arguments,
            "machine": {"bytes_per_second": self.bandwidth, "flops": self.flops},
            "machine_rounds": {"bytes_per_second": self.bandwidths, "flops": self.products},
            "state": {"before": self.state_before, "after": self.state_after},
            "settings": self.settings,
            "first_token_seconds": self.first_token_seconds,
            "resident_bytes": self.resident_bytes,
            "tokens_per_second": {
                shape.name: {
                    name: asdict(spread)
                    for name in engines
                    if (spread := self.figures.spread(name, shape.name)) is not None
                }
                | {"limit": self.limit(shape)}
                for shape in self.shapes
            },
            "ratios": {
                shape.name: {name: self.figures.ratio(OWN, name, shape.name) for name in engines if name != OWN}
                | {"limit": self.share_of_limit(shape)}
                for shape in self.shapes
            },
            "rounds": {f"{engine}: {figure}": rates for (engine, figure), rates in self.figures.rates.items()},
            "problems": {f"{engine}: {figure}": text for (engine, figure), text in self.figures.problems.items()},
            "mixed_load": self.mixed,
        }


def layer_values(config: dict[str, Any]) -> int:
    """Values of all layers' matrices."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv_size = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    return config["num_hidden_layers"] * (2 * hidden * hidden + 2 * kv_size * hidden + 3 * inner * hidden)


def as_table(report: Report) -> str:
    """Markdown: tokens/s as median (least to most), then our ratio to each with its goal."""
    engines = list(report.first_token_seconds)
    names = [shape.name for shape in report.shapes]
    lines = [
        f"{report.model}: {report.bandwidth / 1e9:.1f} GB/s, GFLOP/s of torch's products: "
        + ", ".join(f"{rate / 1e9:.0f} in {name}" for name, rate in report.flops.items()),
        "",
        _row("tok/s", *names, "first token", "resident"),
        _row(*["---"] * (len(names) + 3)),
    ]
    for engine in engines:
        cells = [_cell(report, engine, name) for name in names]
        memory = report.resident_bytes.get(engine, 0) / 2**30
        lines.append(_row(engine, *cells, f"{report.first_token_seconds[engine]:.1f} s", f"{memory:.2f} GiB"))
    lines.append(_row("limit", *(f"{report.limit(shape):.0f}" for shape in report.shapes), "", ""))
    for engine in engines:
        if engine != OWN:
            cells = [_ratio(report.figures.ratio(OWN, engine, name), GOALS.get(engine, {}).get(name)) for name in names]
            sooner = report.first_token_seconds[engine] / report.first_token_seconds.get(OWN, float("inf"))
            lines.append(_row(f"{OWN} / {engine}", *cells, f"{sooner:.1f} times sooner", ""))
    shares = [_ratio(report.share_of_limit(shape), GOALS["limit"].get(shape.name)) for shape in report.shapes]
    lines.append(_row(f"{OWN} / limit", *shares, "", ""))
    for engine, felt in report.mixed.items():
        lines.append(f"\nmixed load, {engine}: " + ", ".join(f"{name} {value}" for name, value in _rounded(felt)))
    lines.extend(f"\n{engine}: {text}" for engine, text in report.settings.items())
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rounded(felt: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, round(value, 3) if isinstance(value, float) else value) for name, value in felt.items()]


def _cell(report: Report, engine: str, name: str) -> str:
    spread = report.figures.spread(engine, name)
    if spread is None:
        return ""
    return f"{spread.median:.0f} ({spread.least:.0f} to {spread.most:.0f})"


def _ratio(value: float | None, goal: float | None) -> str:
    if value is None:
        return ""
    if goal is None:
        return f"{value:.2f}"
    return f"{value:.2f} ({'met' if value >= goal else 'short'}: {goal})"
