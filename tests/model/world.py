"""What the model's world consists of: workers, Kafka, Redis, leases, the budget of faults. Values; no move.

Imports nothing of the platform.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from tests.model.ledger_rules import Answer, Ledger, Rules, Terminal

MOST_RECORDS = 4
Verb = tuple[str, dict[str, object]]
"""A verb of the ledger with its arguments, for a replay on the real one."""


class Fault(StrEnum):
    CRASH = "a worker crashes"
    PAUSE = "a worker is stopped and goes on later"
    ENGINE = "an engine dies"
    DRAIN = "a worker hands over"
    REBALANCE = "a record is delivered to another worker too"
    UNHEARD = "an answer of the ledger is lost"
    REDIS = "Redis loses its data"
    SUPERVISOR = "the supervisor dies for good"
    GATEWAY = "the gateway dies"
    CANCEL = "somebody cancels"
    DEADLINE = "the deadline passes"


@dataclass(frozen=True, slots=True)
class Worker:
    life: int = 0
    status: str = "up"
    step: str = "idle"
    record: int = -1
    token: str = ""
    num_claims: int = 0
    said: int = 0
    terminal: Terminal | None = None


@dataclass(frozen=True, slots=True)
class State:
    budget: tuple[tuple[Fault, int], ...]
    ledgers: tuple[Ledger, Ledger] = (Ledger(), Ledger())
    """Of the request, and of the other request that a copy becomes when its id does not travel with it (line 2)."""
    workers: tuple[Worker, Worker] = (Worker(), Worker())
    leases: frozenset[str] = frozenset()
    records: tuple[tuple[int, bool], ...] = ()
    """Request and whether its offset is done, in the order of publishing."""
    results: tuple[tuple[int, Terminal], ...] = ()
    gateway: str = "asked"
    supervisor: str = "up"
    """up, dead, or the token of the claim that it is about to take; `copy` when only the copy is left to do."""
    is_expired: bool = False
    is_cancelled: bool = False
    # What only the judge knows.
    first: Terminal | None = None
    granted: str = ""
    """The holder that was told `run` last and has not been replaced."""
    must_cancel: bool = False
    num_strikes: int = 0
    """How often a worker or an engine was lost: as often a claim may be called lost."""
    has_zombie: bool = False
    """A stopped worker was about to publish when Redis lost its data: no ledger can hold it back."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    label: str
    state: State
    is_fault: bool = False
    verb: Verb | None = None
    answer: Answer | None = None


def holder_of(rules: Rules, index: int, worker: Worker) -> str:
    return f"{'AB'[index]}.{worker.life}" if rules.has(1) else "AB"[index]


def start(faults: dict[Fault, int], *, by_gateway: bool) -> State:
    """A request of an HTTP client that has not been accepted yet, or a producer's record that lies in Kafka."""
    budget = tuple(sorted(faults.items()))
    leases = frozenset({"A.0", "B.0", "A", "B"})
    if by_gateway:
        return State(budget, leases=leases)
    return State(budget, leases=leases, gateway="accepted", records=((0, False),))


def is_answered(state: State) -> bool:
    """Accepted, answered, nothing left to do."""
    return (
        state.gateway == "accepted"
        and bool(state.results)
        and all(is_done for _, is_done in state.records)
        and all(worker.step == "idle" or worker.status != "up" for worker in state.workers)
    )


def with_ledger(state: State, request: int, ledger: Ledger) -> State:
    ledgers = (ledger, state.ledgers[1]) if request == 0 else (state.ledgers[0], ledger)
    return replace(state, ledgers=ledgers)


def with_worker(state: State, index: int, worker: Worker) -> State:
    workers = (worker, state.workers[1]) if index == 0 else (state.workers[0], worker)
    return replace(state, workers=workers)


def now(state: State, request: int) -> Ledger:
    return replace(state.ledgers[request], is_expired=state.is_expired)


def bad(state: State, problem: str) -> State:
    return replace(state, problem=state.problem or problem)


def copied(state: State, rules: Rules, request: int) -> State:
    return replace(state, records=(*state.records, (request if rules.has(2) else 1, False)))
