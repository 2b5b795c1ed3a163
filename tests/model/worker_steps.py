"""What a worker does between two awaits, from the poll of a record to the commit of its offset."""

from collections.abc import Iterator
from dataclasses import replace

from tests.model import ledger_rules as verbs
from tests.model.ledger_rules import NUM_TOKENS, Answer, Rules, Terminal
from tests.model.world import (
    MOST_RECORDS,
    Move,
    State,
    Verb,
    Worker,
    bad,
    copied,
    holder_of,
    now,
    with_ledger,
    with_worker,
)


def worker_moves(state: State, rules: Rules, index: int) -> Iterator[Move]:
    worker = state.workers[index]
    if worker.status != "up":
        return
    name = "AB"[index]
    if worker.step == "idle":
        yield from take(state, index, is_rebalanced=False)
        return
    step = {
        "claim": _claim,
        "run": _append,
        "seal": _seal,
        "publish": _publish,
        "finish": _finish,
        "copy": _copy,
        "done": _done,
    }[worker.step]
    for move in step(state, rules, index, worker):
        yield replace(move, label=f"{name}: {move.label}")


def take(state: State, index: int, *, is_rebalanced: bool) -> Iterator[Move]:
    other = state.workers[1 - index]
    for number, (_, is_done) in enumerate(state.records):
        has_other = other.record == number and other.status == "up"
        if not is_done and has_other == is_rebalanced:
            taken = replace(state.workers[index], step="claim", record=number, said=0, terminal=None, token="")
            yield Move(f"{'AB'[index]} gets record {number}", with_worker(state, index, taken))


def _claim(state: State, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    if state.is_expired and not rules.has(4):
        own = Terminal("expired", holder_of(rules, index, worker))
        yield Move(
            "judges the deadline itself", with_worker(state, index, replace(worker, step="publish", terminal=own))
        )
        return
    after, verb, answer = ask_claim(state, rules, index, worker)
    yield Move(f"claim {answer[0]}", after, verb=verb, answer=answer)


def ask_claim(state: State, rules: Rules, index: int, worker: Worker) -> tuple[State, Verb, Answer]:
    request, holder = state.records[worker.record][0], holder_of(rules, index, worker)
    token = worker.token or f"{holder}#{worker.num_claims + 1}"
    arguments = {"holder": holder, "token": token, "is_running": False}
    ledger, answer = verbs.claim(
        now(state, request), rules, holder=holder, token=token, alive=state.leases, is_running=False
    )
    kind, what = answer
    is_granted = kind in ("run", "ended")
    claimed = replace(worker, num_claims=worker.num_claims + (is_granted and not worker.token), token="")
    state = with_ledger(replace(state, leases=state.leases | {holder}), request, ledger)
    if kind == "run":
        assert isinstance(what, tuple)
        claimed = replace(claimed, step="run", token=what[0], said=len(what[1]))
        state = replace(state, granted=holder if request == 0 else state.granted)
        if len(what[1]) == NUM_TOKENS:
            claimed = replace(claimed, step="seal", terminal=Terminal("completed", holder))
    elif kind == "ended":
        assert isinstance(what, tuple)
        claimed = replace(claimed, step="seal", token=what[0], terminal=Terminal(str(what[1]), "decided"))
        state = replace(state, granted=holder if request == 0 else state.granted)
    elif kind == "sealed":
        assert isinstance(what, Terminal)
        claimed = replace(claimed, step="publish", terminal=what)
    elif kind == "finished" or not rules.has(8):
        claimed = replace(claimed, step="done")
    return with_worker(state, index, claimed), ("claim", arguments), answer


def ask_append(state: State, rules: Rules, index: int, worker: Worker) -> tuple[State, Verb, Answer]:
    request, holder = state.records[worker.record][0], holder_of(rules, index, worker)
    seed = "s" if rules.has(12) else f"s{holder}"
    letter = f"{seed}/{worker.said}"
    ledger, answer = verbs.append(now(state, request), rules, token=worker.token, position=worker.said, letter=letter)
    has_written = ledger.log != state.ledgers[request].log
    state = with_ledger(state, request, ledger)
    if has_written:
        if request == 0 and state.granted != holder:
            state = bad(state, "a worker wrote whose claim was somebody else's by then")
        if ledger.log != tuple(f"{seed}/{position}" for position in range(len(ledger.log))):
            state = bad(state, "the log has a gap, a repeat or a contradiction")
    return state, ("append", {"token": worker.token, "position": worker.said, "letter": letter}), answer


def _append(state: State, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    after, verb, answer = ask_append(state, rules, index, worker)
    kind, what = answer
    if kind == "ok":
        said = worker.said + 1
        next_worker = replace(worker, said=said)
        holder = holder_of(rules, index, worker)
        if said == NUM_TOKENS:
            next_worker = replace(next_worker, step="seal", terminal=Terminal("completed", holder))
        elif what:
            ending = "cancelled" if after.ledgers[after.records[worker.record][0]].cancel else "expired"
            next_worker = replace(next_worker, step="seal", terminal=Terminal(ending, holder))
    elif kind == "behind":
        assert isinstance(what, int)
        next_worker = replace(worker, said=what)
    else:
        next_worker = replace(worker, step="claim" if rules.has(8) else "done", token="")
    yield Move(f"append {kind}", with_worker(after, index, next_worker), verb=verb, answer=answer)


def _seal(state: State, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    assert worker.terminal is not None
    next_step = "publish" if rules.has(7) else "finish"
    if not rules.has(6):
        yield Move("goes on without a seal", with_worker(state, index, replace(worker, step=next_step)))
        return
    request = state.records[worker.record][0]
    ledger, (kind, what) = verbs.seal(now(state, request), token=worker.token, terminal=worker.terminal)
    if kind == "sealed":
        assert isinstance(what, Terminal)
        next_worker = replace(worker, step=next_step, terminal=what)
    else:
        next_worker = replace(worker, step="claim" if rules.has(8) else "done", token="", terminal=None)
    after = with_worker(with_ledger(state, request, ledger), index, next_worker)
    verb = ("seal", {"token": worker.token, "terminal": worker.terminal})
    yield Move(f"seal {kind}", after, verb=verb, answer=(kind, what))


def _publish(state: State, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    assert worker.terminal is not None
    request, terminal = state.records[worker.record][0], worker.terminal
    after = replace(state, results=(*state.results, (request, terminal))[-3:])
    if state.first is None:
        after = replace(after, first=terminal)
    elif not state.has_zombie and (request, terminal) != (state.results[0][0], state.first):
        after = bad(after, "two terminals that are not the same")
    if state.must_cancel and terminal.kind != "cancelled":
        after = bad(after, "it ran although it had been cancelled before it was claimed")
    if terminal.kind == "poisoned" and state.num_strikes < verbs.MAX_LOST:
        after = bad(after, "poisoned, and no claim was lost")
    next_step = "finish" if rules.has(7) else "done"
    yield Move("publish the result", with_worker(after, index, replace(worker, step=next_step)))


def _finish(state: State, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    request = state.records[worker.record][0]
    ledger = now(state, request)
    if not rules.has(6):
        ledger = replace(ledger, sealed=ledger.sealed or worker.terminal)
    ledger, answer = verbs.finish(ledger)
    if answer[0] == "yes":
        next_worker = replace(worker, step="done" if rules.has(7) else "publish")
    else:
        next_worker = replace(worker, step="claim", token="", terminal=None)
    after = with_worker(with_ledger(state, request, ledger), index, next_worker)
    yield Move(f"finish {answer[0]}", after, verb=("finish", {}), answer=answer)


def _copy(state: State, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    if len(state.records) < MOST_RECORDS:
        after = copied(state, rules, state.records[worker.record][0])
        yield Move("copies its record", with_worker(after, index, replace(worker, step="done")))


def _done(state: State, rules: Rules, index: int, worker: Worker) -> Iterator[Move]:
    records = tuple((r, d or number == worker.record) for number, (r, d) in enumerate(state.records))
    idle = Worker(life=worker.life, num_claims=worker.num_claims)
    yield Move("commits", with_worker(replace(state, records=records), index, idle))
