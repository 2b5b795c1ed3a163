"""What the chaos run asked, and what came back to each asker. Values only; imports nothing of the platform."""

import itertools
from dataclasses import dataclass, field
from enum import StrEnum


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


class Early(StrEnum):
    """How a request may end before its last token; any of them may lose the race against the last token."""

    DELETE = "cancelled by DELETE"
    RECORD = "cancelled by a record"
    LEAVE = "left by its reader"
    DEADLINE = "past its deadline"


ENDING_OF = {
    Early.DELETE: "cancelled",
    Early.RECORD: "cancelled",
    Early.LEAVE: "cancelled",
    Early.DEADLINE: "expired",
}


FAILURE_ASKED_FOR = "engine_failed"
"""What the null engine is told to do now and then. It is tried again, unless its own deadline comes first."""
SECONDS_TO_ANOTHER_TRY = 1.0


@dataclass(slots=True)
class Answer:
    """One choice, as asked for or as it came."""

    text: str = ""
    finish_reason: str | None = None
    calls: dict[int, list[str]] = field(default_factory=dict)
    """Name and arguments of each tool call, by index."""
    tokens: list[str] = field(default_factory=list)
    """The tokens that had log-probabilities."""


@dataclass(slots=True, kw_only=True)
class Wanted:
    """What must come back; `completion_tokens` counts every choice."""

    answers: list[Answer]
    completion_tokens: int


@dataclass(slots=True, eq=False, kw_only=True)
class Ask:
    name: str
    way: Way
    body: dict[str, object]
    wanted: Wanted
    endpoint: str = "chat/completions"
    lane: str = "interactive"
    early: Early | None = None
    early_after_seconds: float = 0.0
    ordered_key: str | None = None
    least_seconds: float = 0.0
    """How long it takes at least from its start to its end; known of ordered asks."""
    asked_at: float = 0.0
    accepted_at: float | None = None
    """When it was certain that the platform has it: a status, or Kafka's acknowledgement."""
    ended_at: float | None = None
    ended_early: str | None = None
    """The code of the error event that ended the stream, when this ending was allowed."""
    is_untold: bool = False
    """Long past its deadline the stream ended without knowing the outcome, and said so."""
    deadline_at: float | None = None
    request_id: str | None = None
    receipts: list[tuple[str, int, int]] = field(default_factory=list)
    said: list[Answer] = field(default_factory=list)
    usage: int | None = None
    arrivals: list[float] = field(default_factory=list)
    num_reconnects: int = 0
    has_left: bool = False
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.said = [Answer() for _ in self.wanted.answers]

    @property
    def is_accepted(self) -> bool:
        return self.accepted_at is not None

    @property
    def is_open(self) -> bool:
        return self.is_accepted and self.ended_at is None

    @property
    def allowed_endings(self) -> frozenset[str]:
        return frozenset({"completed"} if self.early is None else {"completed", ENDING_OF[self.early]})

    def may_fail_by(self, code: str) -> bool:
        """Whether a failure that was asked for may be its end: there was no time for another try."""
        return self.early is Early.DEADLINE and code == FAILURE_ASKED_FOR

    def gaps(self) -> list[tuple[float, float]]:
        """The silences between two arrivals, as (from, to); waiting for the first token is not among them."""
        return list(zip(self.arrivals, self.arrivals[1:], strict=False))

    @property
    def wait(self) -> tuple[float, float] | None:
        """From the question to the first token."""
        return (self.asked_at, self.arrivals[0]) if self.arrivals else None


def flaw(said: str, wanted: str) -> str | None:
    """What is wrong with a text, told from where it first differs: duplicate, gap, different or short."""
    if said == wanted:
        return None
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(said, wanted, strict=False))
    at = sum(1 for _ in same)
    if at == len(said):
        return f"short: {len(said)} of {len(wanted)} characters"
    tail = said[at : at + 12]
    if tail and tail in wanted[at:]:
        return f"gap at character {at}"
    if tail and tail in wanted[: at + len(tail)]:
        return f"duplicate at character {at}"
    return f"different at character {at}"


def answer_flaw(said: Answer, wanted: Answer) -> str | None:
    """The whole answer: text, calls, tokens and how it ended."""
    if problem := flaw(said.text, wanted.text):
        return problem
    for index in sorted(said.calls.keys() | wanted.calls.keys()):
        ours, theirs = said.calls.get(index, ["", ""]), wanted.calls.get(index, ["", ""])
        if problem := flaw(" ".join(ours), " ".join(theirs)):
            return f"tool call {index}: {problem}"
    if said.tokens != wanted.tokens:
        return f"log-probabilities of {len(said.tokens)} other tokens ({len(wanted.tokens)} wanted)"
    if said.finish_reason != wanted.finish_reason:
        return f"finish reason {said.finish_reason} instead of {wanted.finish_reason}"
    return None


def prefix_flaw(said: Answer, wanted: Answer) -> str | None:
    """Of a stream that may end early: whatever came must be the beginning of what was wanted."""
    problem = flaw(said.text, wanted.text)
    return problem if problem is not None and not problem.startswith("short") else None
