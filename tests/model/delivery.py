"""The delivery protocol as a state machine: two workers, a supervisor, a gateway, Kafka, Redis, and what can go wrong.

A step is what happens between two awaits; a fault may strike between any two steps. `moves` lists every next state.
Here are the gateway, the supervisor and what time brings. Imports nothing of the platform.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

from tests.model import ledger_rules as verbs
from tests.model.ledger_rules import Claim, Ledger, Rules
from tests.model.strikes import strike
from tests.model.worker_steps import worker_moves
from tests.model.world import (
    MOST_RECORDS,
    Move,
    State,
    Worker,
    bad,
    copied,
    holder_of,
    is_answered,
    now,
    with_ledger,
    with_worker,
)


def moves(state: State, rules: Rules) -> Iterator[Move]:
    for move in (*_gateway(state, rules), *_supervisor(state, rules), *_world(state, rules)):
        yield move
    for index in (0, 1):
        yield from worker_moves(state, rules, index)
    for fault, left in state.budget:
        if left:
            spent = tuple((other, count - (other is fault)) for other, count in state.budget)
            for move in strike(replace(state, budget=spent), rules, fault):
                yield replace(move, is_fault=True)


def _gateway(state: State, rules: Rules) -> Iterator[Move]:
    if state.gateway in ("asked", "asked again"):
        ledger, answer = verbs.register(now(state, 0))
        is_settled = answer[0] == "existing" and (bool(answer[1]) or not rules.has(16))
        step = "accepted" if is_settled else "registered"
        yield Move(
            "register", replace(with_ledger(state, 0, ledger), gateway=step), verb=("register", {}), answer=answer
        )
    elif state.gateway == "registered" and len(state.records) < MOST_RECORDS:
        yield Move("publish the request", replace(state, gateway="accepted", records=(*state.records, (0, False))))


def _supervisor(state: State, rules: Rules) -> Iterator[Move]:
    claim = state.ledgers[0].claim
    if state.supervisor == "up":
        if claim is not None and claim.holder not in state.leases:
            yield Move("supervisor: a lease has ended", replace(state, supervisor=f"take {claim.token}"))
    elif state.supervisor == "copy":
        if len(state.records) < MOST_RECORDS:
            yield Move("supervisor: copy", replace(copied(state, rules, 0), supervisor="up"))
        else:
            yield Move("supervisor: enough copies", replace(state, supervisor="up"))
    elif state.supervisor != "dead":
        token = state.supervisor.removeprefix("take ")
        ledger, answer = verbs.orphan(now(state, 0), rules, token=token, alive=state.leases)
        after = replace(with_ledger(state, 0, ledger), supervisor="copy" if answer[0] == "yes" else "up")
        if answer[0] == "yes" and claim is not None and claim.holder in state.leases:
            after = bad(after, "the claim of a living worker was taken")
        yield Move("supervisor: orphan", after, verb=("orphan", {"token": token}), answer=answer)


def _world(state: State, rules: Rules) -> Iterator[Move]:
    living = {holder_of(rules, i, worker) for i, worker in enumerate(state.workers) if worker.status == "up"}
    for claimed in {ledger.claim.holder for ledger in state.ledgers if ledger.claim is not None}:
        if claimed in state.leases and claimed not in living:
            yield Move(
                "lease ends", replace(state, leases=state.leases - {claimed}), verb=("lease ends", {"of": claimed})
            )
    for index, worker in enumerate(state.workers):
        if worker.status == "dead":
            born = Worker(life=worker.life + 1)
            after = with_worker(state, index, born)
            yield Move("restart", replace(after, leases=after.leases | {holder_of(rules, index, born)}))
        elif worker.status == "paused":
            after = with_worker(state, index, replace(worker, status="up"))
            after = replace(after, leases=after.leases | {holder_of(rules, index, worker)})
            yield Move("wakes up", after, verb=("lease begins", {"of": holder_of(rules, index, worker)}))
    if not state.ledgers[0].is_open:
        # Whoever is stopped with an outcome in its hand is beyond the reach of any ledger: line 15 is for it.
        has_zombie = any(worker.status == "paused" and worker.step == "publish" for worker in state.workers)
        for after in _reopened(state):
            yield Move("reopen", replace(after, has_zombie=state.has_zombie or has_zombie))
    is_idle = all(is_done for _, is_done in state.records) and all(w.step == "idle" for w in state.workers)
    if state.ledgers[0].is_finished and not (rules.has(13) and not is_idle) and not is_answered(state):
        yield Move("the done marker expires", with_ledger(state, 0, Ledger()))
    if not rules.has(15) and len(state.results) > 1:
        yield Move("the results are compacted", _judge_reader(replace(state, results=state.results[-1:])))


def _judge_reader(state: State) -> State:
    """A late reader keeps the first record that it finds; an early one had the first that there was."""
    found = next((terminal for request, terminal in state.results if request == 0), None)
    return state if found == state.first else bad(state, "a late reader finds another first terminal")


def _reopened(state: State) -> Iterator[State]:
    """Published outcomes and cancellations are back, and living workers have put back what they hold, in any order."""
    published = next((terminal for request, terminal in state.results if request == 0), None)
    ledger = Ledger(tombstone=state.is_cancelled)
    if published is not None:
        yield with_ledger(state, 0, replace(ledger, is_known=True, sealed=published, is_finished=True))
        return
    holding = [index for index, worker in enumerate(state.workers) if worker.status == "up" and _holds(state, worker)]
    for order in permutations(holding):
        filled, granted = ledger, ""
        for index in order:
            before, filled = filled, _put_back(filled, index, state.workers[index])
            granted = granted if filled is before else "AB"[index]
        if granted:
            worker = state.workers["AB".index(granted)]
            granted = f"{granted}.{worker.life}"
        yield with_ledger(replace(state, granted=granted), 0, filled)


def _holds(state: State, worker: Worker) -> bool:
    is_running = worker.step in ("run", "seal") and bool(worker.token)
    return (is_running or worker.step in ("publish", "finish")) and state.records[worker.record][0] == 0


def _put_back(ledger: Ledger, index: int, worker: Worker) -> Ledger:
    """The first to come has it, unless another one has an outcome sealed: that may be on its way to Kafka already."""
    sealed = worker.terminal if worker.step in ("publish", "finish") else None
    if ledger.sealed is not None or (ledger.claim is not None and sealed is None):
        return ledger
    claim = Claim(f"{'AB'[index]}.{worker.life}", worker.token or f"put back by {'AB'[index]}")
    return replace(ledger, is_known=True, cancel=ledger.cancel or ledger.tombstone, claim=claim, sealed=sealed)
