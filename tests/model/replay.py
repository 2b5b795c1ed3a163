"""Walks through the model and says every verb to a real ledger as well: it must answer what the model answered."""

import random
from collections.abc import Iterator

from shared.contracts.events import Chunk, Outcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation
from shared.contracts.requests import Coordinates, Lane, WireFormat
from shared.ledger.ledger import Ledger
from shared.ledger.records import (
    Append,
    AppendStatus,
    CancelAnswer,
    ClaimRequest,
    Ended,
    Fenced,
    Registration,
    Run,
    Sealed,
)
from tests.model.delivery import moves
from tests.model.ledger_rules import MAX_LOST, Answer, Rules, Terminal
from tests.model.world import Move, State
from tests.property.shared.ledger.ledger_subjects import REQUEST, RedisSubject

_FAR_MS = 2**42
_OUTCOMES = {"completed": Outcome.COMPLETED, "cancelled": Outcome.CANCELLED, "expired": Outcome.EXPIRED}


def walk(begin: State, seed: int, *, most_moves: int = 80) -> Iterator[tuple[State, Move]]:
    """A random way through the model, as (state before, move); ends where nothing can move."""
    rng, state = random.Random(seed), begin
    for _ in range(most_moves):
        choices = list(moves(state, Rules()))
        if not choices:
            return
        # Mostly work, or the faults are spent before anything has happened.
        work = [move for move in choices if not move.is_fault]
        move = rng.choice(work if work and rng.random() < 0.75 else choices)
        yield state, move
        state = move.state


class Replay:
    """Says the verbs of one walk to a ledger on Redis. Refuses nothing: the test compares."""

    def __init__(self, subject: RedisSubject) -> None:
        self._subject = subject

    @property
    def _ledger(self) -> Ledger:
        return self._subject.ledger

    async def say(self, before: State, move: Move) -> Answer | None:
        """The real answer in the model's words; None: this move asks the ledger nothing."""
        await self._pass_time(before, move)
        if move.verb is None or move.answer is None:
            return None
        verb, arguments = move.verb
        token = ClaimToken(str(arguments.get("token", "")))
        if verb == "register":
            answer = await self._ledger.register(self._registration(move.state), channel=None)
            return answer.status.value, None if answer.status.value == "new" else not answer.should_publish
        if verb == "claim":
            return await self._claim(move.state, str(arguments["holder"]), token)
        if verb == "append":
            position, letter = arguments["position"], arguments["letter"]
            assert isinstance(position, int)
            return await self._append(token, position, str(letter))
        if verb == "seal":
            terminal = arguments["terminal"]
            assert isinstance(terminal, Terminal)
            sealing = await self._ledger.seal(REQUEST, token, _outcome(terminal))
            return ("fenced", None) if isinstance(sealing, Fenced) else ("sealed", _terminal(sealing.outcome))
        if verb == "cancel":
            return _cancel_answer(await self._ledger.cancel(REQUEST, reason="user", tenant=None)), None
        is_done = {
            "finish": lambda: self._ledger.finish(REQUEST),
            "release": lambda: self._ledger.release(REQUEST, token),
            "orphan": lambda: self._ledger.orphan(REQUEST, token),
        }[verb]
        return "yes" if await is_done() else "no", None

    async def _pass_time(self, before: State, move: Move) -> None:
        """Leases, the deadline and the end of a marker are Redis' own doing."""
        for name in before.leases - move.state.leases:
            await self._ledger.drop_lease(Incarnation(name))
        if move.verb is None or move.verb[0] != "claim":
            for name in move.state.leases - before.leases:
                await self._ledger.refresh_lease(Incarnation(name))
        if move.state.is_expired and not before.is_expired and before.ledgers[0].is_known:
            await self._subject.expire()
        if move.label == "the done marker expires":
            await self._subject.forget()

    def _registration(self, state: State) -> Registration:
        return Registration(
            request_id=REQUEST,
            pool="p",
            lane=Lane.INTERACTIVE,
            tenant="t",
            deadline_ms=1 if state.is_expired else _FAR_MS,
            fingerprint="f",
            seed=1,
        )

    async def _claim(self, state: State, holder: str, token: ClaimToken) -> Answer:
        incarnation = Incarnation(holder)
        self._ledger._unanswered_claims[REQUEST, incarnation] = token
        claim = await self._ledger.claim(
            ClaimRequest(
                registration=self._registration(state),
                incarnation=incarnation,
                coordinates=Coordinates(topic="t", partition=0, offset=0, timestamp_ms=1),
                max_attempts=MAX_LOST,
            )
        )
        if isinstance(claim, Run):
            return "run", (claim.token, tuple(chunk.text for chunk in claim.chunks))
        if isinstance(claim, Ended):
            return "ended", (claim.token, claim.verdict.value)
        if isinstance(claim, Sealed):
            return "sealed", _terminal(claim.outcome)
        return type(claim).__name__.lower(), None

    async def _append(self, token: ClaimToken, position: int, letter: str) -> Answer:
        chunk = Chunk(choice=0, position=position, token_ids=(position,), text=letter)
        (answer,) = await self._ledger.append([Append(request_id=REQUEST, token=token, chunks=(chunk,))])
        if answer.status is AppendStatus.OK:
            return "ok", answer.cancel_requested or answer.deadline_passed
        if answer.status is AppendStatus.BEHIND:
            return "behind", answer.next_positions[0]
        return "fenced", None


def _cancel_answer(answer: CancelAnswer) -> str:
    if not answer.requested:
        return "ended"
    return "requested" if answer.known else "unknown"


def _outcome(terminal: Terminal) -> SealedOutcome:
    return SealedOutcome(
        request_id=REQUEST,
        outcome=_OUTCOMES.get(terminal.kind, Outcome.FAILED),
        wire_format=WireFormat.JSON,
        value=f"{terminal.kind} {terminal.stamp}".encode(),
        headers=(),
        reply_to=None,
        sealed_at_ms=1,
    )


def _terminal(outcome: SealedOutcome) -> Terminal:
    return Terminal(*outcome.value.decode().split(" ", 1))
