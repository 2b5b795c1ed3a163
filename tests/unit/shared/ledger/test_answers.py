"""What the seal script's replies mean; the scripts themselves are under test on a real Redis."""

import pytest

from shared.contracts.errors import InvariantViolated
from shared.contracts.events import Outcome, SealedOutcome
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import WireFormat
from shared.ledger.answers import seal_answer
from shared.ledger.records import Fenced, Sealed
from shared.ledger.wire import encode_sealed


def outcome(value: bytes) -> SealedOutcome:
    return SealedOutcome(
        request_id=RequestId("0" * 32),
        outcome=Outcome.COMPLETED,
        wire_format=WireFormat.JSON,
        value=value,
        headers=(("ce_id", b"1"), ("empty", None)),
        reply_to=None,
        sealed_at_ms=1,
    )


def test_a_seal_without_bytes_in_the_reply_sealed_what_was_asked() -> None:
    assert seal_answer([b"sealed"], outcome(b"ours")) == Sealed(outcome=outcome(b"ours"))


def test_bytes_in_the_reply_are_what_was_sealed_before() -> None:
    reply = [b"sealed", encode_sealed(outcome(b"theirs"))]
    assert seal_answer(reply, outcome(b"ours")) == Sealed(outcome=outcome(b"theirs"))


def test_fenced_is_no_seal() -> None:
    assert seal_answer([b"fenced"], outcome(b"ours")) == Fenced()


def test_an_outcome_that_contradicts_the_verdict_is_our_own_bug() -> None:
    with pytest.raises(InvariantViolated, match="expired"):
        seal_answer([b"contradiction", b"expired"], outcome(b"ours"))
