"""Any order of two workers, a supervisor and a client, with lost leases and zombies, against a simple model.

The model keeps what docs/protocol.md promises and predicts every answer: the log has no gap and no repeat, one outcome
is ever sealed, a stale token changes nothing, a verdict never changes. One request, two choices; several requests
share nothing but the flush, which the contract suite covers.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.contracts.errors import InvariantViolated
from shared.contracts.events import Chunk, FinishReason, Outcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation
from shared.contracts.requests import Coordinates, Lane, WireFormat
from shared.ledger.records import (
    Append,
    AppendStatus,
    ClaimRequest,
    Ended,
    Fenced,
    Finished,
    Held,
    RegisterStatus,
    Registration,
    RequestState,
    Run,
    Sealed,
    Verdict,
)
from tests.property.shared.ledger.ledger_subjects import REQUEST, InMemorySubject, RedisSubject, Subject

T = TypeVar("T")

WORKERS = (Incarnation("alice.1"), Incarnation("bob.1"))
FAR_MS = 2**42
SEALS = {
    Verdict.CANCELLED: {Outcome.CANCELLED},
    Verdict.EXPIRED: {Outcome.EXPIRED},
    Verdict.POISONED: {Outcome.FAILED, Outcome.DEAD_LETTERED},
}


@dataclass
class Model:
    """What must be true of the one request."""

    known: bool = False
    token: ClaimToken | None = None
    holder: Incarnation | None = None
    living: set[Incarnation] = field(default_factory=set)
    lost: int = 0
    max_attempts: int = 3
    attempts: int = 0
    cancelled: bool = False
    expired: bool = False
    verdict: tuple[Verdict, int] | None = None
    sealed: SealedOutcome | None = None
    finished: bool = False
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def state(self) -> RequestState:
        if self.finished:
            return RequestState.FINISHED
        if self.sealed:
            return RequestState.SEALED
        if self.verdict:
            return RequestState.DECIDED
        return RequestState.RUNNING if self.token else RequestState.WAITING

    def tokens(self, choice: int) -> list[int]:
        return [token for chunk in self.chunks if chunk.choice == choice for token in chunk.token_ids]

    def has_ended(self, choice: int) -> bool:
        return any(chunk.finish_reason for chunk in self.chunks if chunk.choice == choice)

    def due_verdict(self) -> Verdict | None:
        if self.cancelled:
            return Verdict.CANCELLED
        if self.expired:
            return Verdict.EXPIRED
        return Verdict.POISONED if self.lost >= self.max_attempts else None


class Interleavings(RuleBasedStateMachine):
    def __init__(self, make_subject: Callable[[], Subject]) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.subject = make_subject()
        self.ask(self.subject.open())
        self.model = Model()
        self.tokens: list[ClaimToken] = [ClaimToken("never issued")]
        self.next_token_id = 0
        self.may_cancel = self.may_expire = self.may_seal = False

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(question)

    def teardown(self) -> None:
        self.ask(self.subject.close())
        self.loop.close()

    def registration(self, fingerprint: str = "f") -> Registration:
        return Registration(
            request_id=REQUEST, pool="p", lane=Lane.INTERACTIVE, tenant="t",
            deadline_ms=1 if self.model.expired else FAR_MS, fingerprint=fingerprint, seed=7,
        )  # fmt: skip

    @initialize(
        cancels=st.sampled_from([False, False, True]), expires=st.sampled_from([False, False, True]),
        seals=st.booleans(), max_attempts=st.sampled_from([2, 3, 100]), claims=st.booleans(),
    )  # fmt: skip
    def choose_what_may_happen(
        self, cancels: bool, expires: bool, seals: bool, max_attempts: int, claims: bool
    ) -> None:
        """Where everything may happen, nearly every example ends after a few steps, with an empty log."""
        self.may_cancel, self.may_expire, self.may_seal = cancels, expires, seals
        self.model.max_attempts = max_attempts
        if claims:
            self.claim(WORKERS[0], running=False)

    @rule(fingerprint=st.sampled_from(["f", "f", "other"]))
    def register(self, fingerprint: str) -> None:
        if not self.model.known and not self.model.finished:
            fingerprint = "f"
        answer = self.ask(self.subject.ledger.register(self.registration(fingerprint), channel="gateway"))
        if self.model.known:
            same = fingerprint == "f"
            assert answer.status is (RegisterStatus.EXISTING if same else RegisterStatus.CONFLICT)
            assert answer.state is (self.model.state if same else None)
        elif self.model.finished:
            assert (answer.status, answer.state) == (RegisterStatus.EXISTING, RequestState.FINISHED)
        else:
            assert answer.status is RegisterStatus.NEW
            self.model.known = True

    @rule(worker=st.sampled_from(WORKERS), running=st.booleans())
    def anyone_claims(self, worker: Incarnation, running: bool) -> None:
        self.claim(worker, running)

    @precondition(lambda self: not self.model.token)
    @rule(worker=st.sampled_from(WORKERS))
    def a_free_request_is_claimed(self, worker: Incarnation) -> None:
        self.claim(worker, running=False)

    def claim(self, worker: Incarnation, running: bool) -> None:
        model = self.model
        request = ClaimRequest(
            registration=self.registration(), incarnation=worker, max_attempts=self.model.max_attempts, running=running,
            coordinates=Coordinates(topic="x", partition=0, offset=0, timestamp_ms=0),
        )  # fmt: skip
        answer = self.ask(self.subject.ledger.claim(request))
        model.living.add(worker)
        if model.finished:
            assert answer == Finished()
            return
        model.known = True
        if model.sealed:
            assert answer == Sealed(outcome=model.sealed)
            return
        keeps = running if model.holder == worker else model.holder in model.living
        if model.holder and keeps:
            assert answer == Held(by=model.holder)
            return
        model.lost += model.holder is not None and model.verdict is None
        verdict = model.verdict[0] if model.verdict else model.due_verdict()
        if verdict:
            assert isinstance(answer, Ended)
            assert answer.verdict is verdict
            model.verdict = model.verdict or (verdict, answer.at_ms)
            assert model.verdict == (answer.verdict, answer.at_ms), "a verdict never changes"
        else:
            assert isinstance(answer, Run)
            model.attempts += 1
            assert (answer.attempt, answer.lost_claims) == (model.attempts, model.lost)
        assert answer.token not in self.tokens, "every claim has a fresh token"
        assert answer.chunks == model.chunks
        model.token, model.holder = answer.token, worker
        self.tokens.append(answer.token)

    @rule(
        data=st.data(), choice=st.integers(0, 1), offset=st.integers(-3, 1), count=st.integers(0, 3),
        ends=st.booleans(),
    )  # fmt: skip
    def anyone_appends(self, data: st.DataObject, choice: int, offset: int, count: int, ends: bool) -> None:
        self.append(self.draw_token(data), choice, offset, count, ends)

    @precondition(lambda self: self.model.token)
    @rule(offset=st.sampled_from([0, 0, -1]), count=st.integers(1, 3))
    def the_holder_appends(self, offset: int, count: int) -> None:
        assert self.model.token is not None
        self.append(self.model.token, 0, offset, count, False)

    def append(self, token: ClaimToken, choice: int, offset: int, count: int, ends: bool) -> None:
        ends = ends or count == 0
        written = self.model.tokens(choice)
        position = max(0, len(written) + offset)
        chunk = Chunk(
            choice=choice, position=position, text=f"{position}+{count}",
            token_ids=tuple(range(self.next_token_id, self.next_token_id + count)),
            finish_reason=FinishReason.STOP if ends else None,
        )  # fmt: skip
        self.next_token_id += count
        (answer,) = self.ask(self.subject.ledger.append([Append(request_id=REQUEST, token=token, chunks=(chunk,))]))
        if token != self.model.token:
            assert answer.status is AppendStatus.FENCED
            return
        has_ended = self.model.has_ended(choice)
        if position + count <= len(written) and (has_ended or not ends):
            assert answer.status is AppendStatus.OK
        elif has_ended or self.model.verdict or self.model.sealed:
            assert answer.status is AppendStatus.CLOSED
        elif position != len(written):
            assert answer.status is AppendStatus.BEHIND
        else:
            assert answer.status is AppendStatus.OK
            self.model.chunks.append(chunk)
        assert answer.next_positions == {choice: len(self.model.tokens(choice))}
        assert answer.cancel_requested == self.model.cancelled
        assert answer.deadline_passed == self.model.expired

    @precondition(lambda self: self.may_seal)
    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)))
    def anyone_seals(self, data: st.DataObject, outcome: Outcome) -> None:
        self.seal(self.draw_token(data), outcome)

    @precondition(lambda self: self.may_seal and self.model.token)
    @rule(outcome=st.sampled_from(list(Outcome)))
    def the_holder_seals(self, outcome: Outcome) -> None:
        assert self.model.token is not None
        self.seal(self.model.token, outcome)

    def seal(self, token: ClaimToken, outcome: Outcome) -> None:
        model = self.model
        wanted = SealedOutcome(
            request_id=REQUEST, outcome=outcome, wire_format=WireFormat.JSON, value=str(len(self.tokens)).encode(),
            headers=(), reply_to=None, sealed_at_ms=self.next_token_id,
        )  # fmt: skip
        question = self.subject.ledger.seal(REQUEST, token, wanted)
        if model.sealed:
            assert self.ask(question) == Sealed(outcome=model.sealed)
        elif model.token is None or token != model.token:
            assert self.ask(question) == Fenced()
        elif model.verdict and outcome not in SEALS[model.verdict[0]]:
            with pytest.raises(InvariantViolated):
                self.ask(question)
        else:
            assert self.ask(question) == Sealed(outcome=wanted)
            model.sealed = wanted

    @rule()
    def finish(self) -> None:
        can_finish = self.model.finished or self.model.sealed is not None
        if not self.model.known:
            return  # a finish of the unknown would end the example; the contract suite has it
        assert self.ask(self.subject.ledger.finish(REQUEST)) == can_finish
        if can_finish:
            self.model.finished = True
            self.model.token = self.model.holder = None

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        token = self.draw_token(data)
        is_holder = self.model.token == token
        assert self.ask(self.subject.ledger.release(REQUEST, token)) == is_holder
        if is_holder:
            self.model.token = self.model.holder = None

    @rule(data=st.data())
    def orphan(self, data: st.DataObject) -> None:
        token, model = self.draw_token(data), self.model
        can_take = model.token == token and model.holder not in model.living
        assert self.ask(self.subject.ledger.orphan(REQUEST, token)) == can_take
        if can_take:
            model.token = model.holder = None
            model.lost += not model.verdict and not model.sealed

    @precondition(lambda self: self.may_cancel)
    @rule()
    def cancel(self) -> None:
        answer = self.ask(self.subject.ledger.cancel(REQUEST, reason="user", tenant="t"))
        if self.model.sealed or self.model.finished:
            assert (answer.requested, answer.outcome) == (False, self.model.sealed)
        else:
            assert (answer.requested, answer.known) == (True, self.model.known)
            self.model.cancelled = True

    @precondition(lambda self: self.may_expire)
    @rule()
    def deadline_passes(self) -> None:
        if self.model.known and not self.model.finished:
            self.ask(self.subject.expire())
        if not self.model.finished:
            self.model.expired = True

    @rule(worker=st.sampled_from(WORKERS))
    def lease_is_lost(self, worker: Incarnation) -> None:
        self.ask(self.subject.ledger.drop_lease(worker))
        self.model.living.discard(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def worker_wakes_up(self, worker: Incarnation) -> None:
        self.ask(self.subject.ledger.refresh_lease(worker))
        self.model.living.add(worker)

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        model = self.model
        snapshot = self.ask(self.subject.ledger.attach(REQUEST, channel="reader"))
        if not model.known:
            assert snapshot is None
            return
        assert snapshot is not None
        assert snapshot.chunks == model.chunks
        assert (snapshot.state, snapshot.sealed) == (model.state, model.sealed)
        for choice in (0, 1):
            position = 0
            for chunk in snapshot.chunks:
                if chunk.choice == choice:
                    assert chunk.position == position, "no gap, no repeat"
                    position += len(chunk.token_ids)
        lost = {model.holder} - model.living - {None}
        assert set(self.ask(self.subject.ledger.lost_incarnations())) == lost
        for worker in WORKERS:
            owned = [entry.token for entry in self.ask(self.subject.ledger.owned(worker))]
            assert owned == ([model.token] if model.holder == worker else [])

    def draw_token(self, data: st.DataObject) -> ClaimToken:
        """The holder's token in half of the draws, else any that was ever issued."""
        current = [self.model.token] * len(self.tokens) if self.model.token else []
        return data.draw(st.sampled_from([*self.tokens, *current]))


def _run(make_subject: Callable[[], Subject], *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: Interleavings(make_subject),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_in_memory_ledger_keeps_its_promises_in_any_interleaving() -> None:
    _run(InMemorySubject, examples=500, steps=40)


@pytest.mark.redis
def test_the_real_ledger_keeps_its_promises_in_any_interleaving(redis_url: str) -> None:
    _run(lambda: RedisSubject(redis_url), examples=120, steps=40)
