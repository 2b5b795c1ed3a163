"""What the chaos run asked, and what came back to each asker. Values only; imports nothing of the platform."""

import itertools
from dataclasses import dataclass, field
from enum import StrEnum

from tests.chaos.expected_text import chat_prompt, expected_text, seed_of_choice


class Way(StrEnum):
    STREAM = "stream"
    """HTTP, server-sent events, read to the end whatever dies."""
    AWAIT = "await"
    """HTTP with `Prefer: respond-async`, the result read by GET."""
    KAFKA = "kafka"
    """A record with a `ce_id`."""
    KAFKA_TWICE = "kafka-twice"
    """The same record produced twice."""
    KAFKA_NAMELESS = "kafka-nameless"
    """A record without any header; joined by its coordinates."""


@dataclass(slots=True, eq=False)
class Ask:
    name: str
    way: Way
    content: str
    seed: int
    num_tokens: int
    num_choices: int = 1
    lane: str = "interactive"
    asked_at: float = 0.0
    accepted_at: float | None = None
    """When it was certain that the platform has it: a status, or Kafka's acknowledgement."""
    ended_at: float | None = None
    request_id: str | None = None
    receipts: list[tuple[str, int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    finish_reasons: dict[int, str] = field(default_factory=dict)
    arrivals: list[float] = field(default_factory=list)
    num_reconnects: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.texts = [""] * self.num_choices

    @property
    def is_accepted(self) -> bool:
        return self.accepted_at is not None

    @property
    def is_open(self) -> bool:
        return self.is_accepted and self.ended_at is None

    @property
    def expected_texts(self) -> list[str]:
        prompt = chat_prompt(self.content)
        return [
            expected_text(prompt, seed=seed_of_choice(self.seed, index), num_tokens=self.num_tokens)
            for index in range(self.num_choices)
        ]

    @property
    def body(self) -> dict[str, object]:
        return {
            "model": "null",
            "messages": [{"role": "user", "content": self.content}],
            "seed": self.seed,
            "max_tokens": self.num_tokens,
            "n": self.num_choices,
        }

    def gaps(self) -> list[tuple[float, float]]:
        """The silences between two arrivals, as (from, to); waiting for the first token is not among them."""
        return list(zip(self.arrivals, self.arrivals[1:], strict=False))

    @property
    def wait(self) -> tuple[float, float] | None:
        """From the question to the first token."""
        return (self.asked_at, self.arrivals[0]) if self.arrivals else None


def flaw(said: str, expected: str) -> str | None:
    """What is wrong with a text, told from where it first differs: duplicate, gap, different or short."""
    if said == expected:
        return None
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(said, expected, strict=False))
    at = sum(1 for _ in same)
    if at == len(said):
        return f"short: {len(said)} of {len(expected)} tokens"
    tail = said[at : at + 12]
    if tail and tail in expected[at:]:
        return f"gap at token {at}"
    if tail and tail in expected[: at + len(tail)]:
        return f"duplicate at token {at}"
    return f"different at token {at}"
