"""The ledger as a pure function of state: verbs in, answer and next state out. Written from docs/protocol.md alone.

One request, two workers. Imports nothing of the platform; `Rules` are the lines of the protocol, each of which can be
taken out, so that a test can show what it is there for.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

NUM_TOKENS = 2
MAX_LOST = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol's lines by number; all of them hold unless one is taken out."""

    without: int = 0

    def has(self, line: int) -> bool:
        return self.without != line


class Terminal(NamedTuple):
    """An outcome's bytes: how it ended, and the stamp that two renderings of it would not share."""

    kind: str
    stamp: str


class Claim(NamedTuple):
    """Who runs it. `token` is unique per claim (line 3), else the number of the attempt."""

    holder: str
    token: str


@dataclass(frozen=True, slots=True)
class Ledger:
    is_known: bool = False
    claim: Claim | None = None
    log: tuple[str, ...] = ()
    """What was said, a letter for each token: the seed it was drawn with."""
    cancel: bool = False
    tombstone: bool = False
    is_expired: bool = False
    """The deadline lies in the past, by Redis' clock."""
    verdict: str = ""
    sealed: Terminal | None = None
    is_finished: bool = False
    num_lost: int = 0
    num_claims: int = 0
    is_open: bool = True
    """False: Redis lost its data, and what was published is not back yet (line 14)."""


Answer = tuple[str, object]
"""What a verb says, and what it says it of."""


def register(ledger: Ledger) -> tuple[Ledger, Answer]:
    if ledger.is_known or ledger.is_finished:
        return ledger, ("existing", ledger.claim is not None or ledger.is_finished)
    return _known(ledger), ("new", None)


def _known(ledger: Ledger) -> Ledger:
    return replace(ledger, is_known=True, cancel=ledger.cancel or ledger.tombstone)


def claim(
    ledger: Ledger, rules: Rules, *, holder: str, token: str, alive: frozenset[str], is_running: bool
) -> tuple[Ledger, Answer]:
    if not ledger.is_open and rules.has(14):
        return ledger, ("recovering", None)
    if ledger.is_finished:
        return ledger, ("finished", None)
    ledger = _known(ledger)
    if ledger.sealed is not None:
        return ledger, ("sealed", ledger.sealed)
    if ledger.claim == Claim(holder, token) and not ledger.verdict:
        return ledger, ("run", (token, ledger.log))  # its answer was lost on the way: the same claim
    if ledger.claim is not None:
        own = ledger.claim.holder == holder
        if (own and is_running) or (not own and ledger.claim.holder in alive):
            return ledger, ("held", None)
        ledger = replace(ledger, claim=None, num_lost=ledger.num_lost + (not ledger.verdict))
    count = ledger.num_lost if rules.has(9) else ledger.num_claims
    verdict = ledger.verdict
    if not verdict and rules.has(4):
        verdict = _verdict(ledger, count)
    elif not verdict and count >= MAX_LOST:
        verdict = "poisoned"
    given = token if rules.has(3) else str(ledger.num_claims + 1)
    ledger = replace(ledger, claim=Claim(holder, given), verdict=verdict, num_claims=ledger.num_claims + (not verdict))
    return ledger, ("ended", (given, verdict)) if verdict else ("run", (given, ledger.log))


def _verdict(ledger: Ledger, count: int) -> str:
    if ledger.cancel:
        return "cancelled"
    if ledger.is_expired:
        return "expired"
    return "poisoned" if count >= MAX_LOST else ""


def append(ledger: Ledger, rules: Rules, *, token: str, position: int, letter: str) -> tuple[Ledger, Answer]:
    """One token. What it is worth is decided by its position, so that saying it again changes nothing."""
    if ledger.claim is None or ledger.claim.token != token:
        return ledger, ("fenced", None)
    ended = ledger.cancel or ledger.is_expired
    if not rules.has(5):
        return replace(ledger, log=(*ledger.log, letter)), ("ok", ended)
    if position < len(ledger.log):
        return ledger, ("ok", ended)
    if ledger.sealed is not None or ledger.verdict:
        return ledger, ("fenced", None)
    if position > len(ledger.log):
        return ledger, ("behind", len(ledger.log))
    return replace(ledger, log=(*ledger.log, letter)), ("ok", ended)


def seal(ledger: Ledger, *, token: str, terminal: Terminal) -> tuple[Ledger, Answer]:
    if ledger.sealed is not None:
        return ledger, ("sealed", ledger.sealed)
    if ledger.is_finished or ledger.claim is None or ledger.claim.token != token:
        return ledger, ("fenced", None)
    return replace(ledger, sealed=terminal), ("sealed", terminal)


def finish(ledger: Ledger) -> tuple[Ledger, Answer]:
    if ledger.is_finished:
        return ledger, ("yes", None)
    if ledger.is_known and ledger.sealed is None:
        return ledger, ("no", None)
    return replace(ledger, is_finished=True, claim=None), ("yes", None)


def release(ledger: Ledger, *, token: str) -> tuple[Ledger, Answer]:
    if ledger.claim is None or ledger.claim.token != token:
        return ledger, ("no", None)
    return replace(ledger, claim=None), ("yes", None)


def orphan(ledger: Ledger, rules: Rules, *, token: str, alive: frozenset[str]) -> tuple[Ledger, Answer]:
    """Compare and set (line 10): without it, whoever holds the request now loses it."""
    if ledger.claim is None:
        return ledger, ("no", None)
    if rules.has(10) and (ledger.claim.token != token or ledger.claim.holder in alive):
        return ledger, ("no", None)
    counts = not ledger.verdict and ledger.sealed is None
    return replace(ledger, claim=None, num_lost=ledger.num_lost + counts), ("yes", None)


def cancel(ledger: Ledger, rules: Rules) -> tuple[Ledger, Answer]:
    if ledger.is_finished or ledger.sealed is not None:
        return ledger, ("ended", None)
    if not ledger.is_known:
        return (replace(ledger, tombstone=True) if rules.has(11) else ledger), ("unknown", None)
    return replace(ledger, cancel=True), ("requested", None)
