"""Who is measured when, and what the figures of several rounds amount to. Knows no engine, no clock and no process.

Machines have neighbours: engines take turns within a round, the order rotates, and only ratios inside one run count.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`decode`: the rate of tokens after the first; `prefill`: prompt tokens to the first token."""

    name: str
    batch_size: int
    prompt_tokens: int
    output_tokens: int

    @property
    def is_prefill(self) -> bool:
        return self.output_tokens == 1

    def rate(self, first_seconds: float, all_seconds: float) -> float:
        """Tokens per second, from when every sequence had its first token to when all had their last."""
        if self.is_prefill:
            return self.batch_size * self.prompt_tokens / first_seconds
        later = self.batch_size * (self.output_tokens - 1)
        return later / max(all_seconds - first_seconds, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    median: float
    least: float
    most: float
    rounds: int


@dataclass(slots=True)
class Figures:
    """Rates by (engine, figure), one for each round in which the engine could be measured."""

    rates: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    problems: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, engine: str, figure: str, rate: float) -> None:
        self.rates.setdefault((engine, figure), []).append(rate)

    def spread(self, engine: str, figure: str) -> Spread | None:
        rates = self.rates.get((engine, figure))
        if not rates:
            return None
        return Spread(median=statistics.median(rates), least=min(rates), most=max(rates), rounds=len(rates))

    def ratio(self, own: str, peer: str, figure: str) -> float | None:
        """Median over rounds of own to peer in the same round: a busy minute slows both."""
        pairs = zip(self.rates.get((own, figure), []), self.rates.get((peer, figure), []), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if theirs > 0]
        return statistics.median(ratios) if ratios else None


def turns(engines: list[str], num_rounds: int) -> list[list[str]]:
    """Each engine once a round; everyone is first equally often."""
    return [engines[start:] + engines[:start] for start in (number % len(engines) for number in range(num_rounds))]


def limit_of(shape: Shape, *, weight_bytes: int, cache_bytes_per_token: int, bandwidth: float, flops: float) -> float:
    """Tokens per second that no engine on this machine can exceed.

    A decode step reads all weights and the cache once and multiplies every row; a prompt multiplies its tokens by all
    weights but the head. `weight_bytes` of two-byte weights; bandwidth in bytes/s, flops in products and sums/s.
    """
    if shape.is_prefill:
        return flops / weight_bytes
    context = shape.prompt_tokens + shape.output_tokens / 2
    read = (weight_bytes + shape.batch_size * context * cache_bytes_per_token) / bandwidth
    return shape.batch_size / max(read, shape.batch_size * weight_bytes / flops)


def rate_when_all_decode(token_seconds: list[list[float]]) -> float:
    """Tokens per second from when the last request has its first token to when the first has its last."""
    begin, end = max(times[0] for times in token_seconds), min(times[-1] for times in token_seconds)
    return sum(begin < moment <= end for times in token_seconds for moment in times) / max(end - begin, 1e-9)


def percentile(values: list[float], share: float) -> float:
    """Nearest rank. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values have no percentile")
    return sorted(values)[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)]
