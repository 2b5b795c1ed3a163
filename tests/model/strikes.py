"""What each fault does, wherever it can strike."""

from collections.abc import Iterator
from dataclasses import replace

from tests.model import ledger_rules as verbs
from tests.model.ledger_rules import Ledger, Rules
from tests.model.worker_steps import ask_append, ask_claim, take
from tests.model.world import Fault, Move, State, Worker, holder_of, now, with_ledger, with_worker


def strike(state: State, rules: Rules, fault: Fault) -> Iterator[Move]:
    label = fault.value
    struck = replace(state, num_strikes=state.num_strikes + 1)
    for index, worker in enumerate(state.workers):
        if worker.status != "up" or worker.step == "idle":
            continue
        named = f"{'AB'[index]}: {label}"
        if fault is Fault.CRASH:
            gone = Worker(life=worker.life, status="dead")
            yield Move(named, with_worker(struck, index, gone))
        elif fault is Fault.PAUSE:
            yield Move(named, with_worker(struck, index, replace(worker, status="paused")))
        elif fault is Fault.ENGINE and worker.step == "run":
            yield Move(named, with_worker(struck, index, replace(worker, step="claim", token="")))
        elif fault is Fault.DRAIN and worker.step == "run":
            request = state.records[worker.record][0]
            ledger, answer = verbs.release(now(state, request), token=worker.token)
            after = with_ledger(state, request, ledger)
            verb = ("release", {"token": worker.token})
            yield Move(
                named, with_worker(after, index, replace(worker, step="copy", token="")), verb=verb, answer=answer
            )
        elif fault is Fault.UNHEARD and worker.step == "run":
            after, verb, answer = ask_append(state, rules, index, worker)
            yield Move(named, after, verb=verb, answer=answer)
        elif fault is Fault.UNHEARD and worker.step == "claim" and rules.has(3):
            after, verb, answer = ask_claim(state, rules, index, worker)
            if answer[0] == "run":
                token = verb[1]["token"]
                assert isinstance(token, str)
                asking = replace(worker, token=token, num_claims=worker.num_claims + (not worker.token))
                yield Move(named, with_worker(after, index, asking), verb=verb, answer=answer)
    if fault is Fault.REBALANCE:
        for index in (0, 1):
            if state.workers[index].step == "idle" and state.workers[index].status == "up":
                yield from take(state, index, is_rebalanced=True)
    else:
        yield from _strike_others(state, rules, fault)


def _strike_others(state: State, rules: Rules, fault: Fault) -> Iterator[Move]:
    if fault is Fault.REDIS:
        up = {holder_of(rules, i, worker) for i, worker in enumerate(state.workers) if worker.status == "up"}
        empty = Ledger(is_open=not rules.has(14))
        after = replace(state, ledgers=(empty, empty if state.ledgers[1] != Ledger() else Ledger()))
        after = replace(after, leases=frozenset(up))
        yield Move(fault.value, after, verb=("loses its data", {}))
    elif fault is Fault.SUPERVISOR and state.supervisor == "up":
        yield Move(fault.value, replace(state, supervisor="dead"))
    elif fault is Fault.GATEWAY and state.gateway == "registered":
        yield Move(fault.value, replace(state, gateway="asked again"))
    elif fault is Fault.CANCEL and not state.is_cancelled and state.ledgers[0].is_open:
        ledger, answer = verbs.cancel(now(state, 0), rules)
        is_early = state.ledgers[0].num_claims == 0 and state.first is None and not state.granted
        after = replace(with_ledger(state, 0, ledger), is_cancelled=True, must_cancel=is_early)
        yield Move(fault.value, after, verb=("cancel", {}), answer=answer)
    elif fault is Fault.DEADLINE and not state.is_expired:
        yield Move(fault.value, replace(state, is_expired=True))
