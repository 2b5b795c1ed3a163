"""Turns the scripts' replies into records. It asks Redis nothing."""

from collections.abc import Sequence
from typing import Any

from shared.contracts.errors import InvariantViolated
from shared.contracts.events import SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.contracts.requests import Lane
from shared.ledger.records import (
    AppendAnswer,
    AppendStatus,
    CancelAnswer,
    Claim,
    Conflict,
    Ended,
    Epoch,
    Fenced,
    Finished,
    Foreign,
    Held,
    OwnedRequest,
    Recovering,
    RegisterAnswer,
    RegisterStatus,
    RequestRecord,
    RequestState,
    Run,
    SealAnswer,
    Sealed,
    StreamSnapshot,
    Verdict,
)
from shared.ledger.wire import decode_chunks, decode_origin, decode_sealed

_APPEND_STATUSES = (AppendStatus.OK, AppendStatus.BEHIND, AppendStatus.FENCED, AppendStatus.CLOSED)


def text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _optional_number(value: bytes) -> int | None:
    return int(value) if value else None


def register_answer(reply: Sequence[bytes]) -> RegisterAnswer:
    status = RegisterStatus(reply[0].decode())
    return RegisterAnswer(status=status, state=RequestState(reply[1].decode()) if reply[1] else None)


def claim_answer(reply: Sequence[Any], token: ClaimToken) -> Claim:
    match reply[0]:
        case b"run":
            return Run(
                token=token,
                chunks=decode_chunks(reply[5]),
                seed=int(reply[1]),
                attempt=int(reply[2]),
                lost_claims=int(reply[3]),
                cancel_requested=bool(reply[4]),
            )
        case b"held":
            return Held(by=Incarnation(text(reply[1])))
        case b"foreign":
            return Foreign(engine=text(reply[1]))
        case b"ended":
            return Ended(
                verdict=Verdict(reply[1].decode()),
                reason=text(reply[2]),
                token=token,
                at_ms=int(reply[3]),
                chunks=decode_chunks(reply[4]),
            )
        case b"sealed":
            return Sealed(outcome=decode_sealed(reply[1]))
        case b"finished":
            return Finished()
        case b"conflict":
            return Conflict()
        case b"recovering":
            return Recovering()
    raise InvariantViolated(f"claim.lua answered {reply[0]!r}")


def epoch(reply: Sequence[bytes | None]) -> Epoch | None:
    name, opened_at_ms, is_refilled = reply
    if name is None:
        return None
    return Epoch(name=text(name), opened_at_ms=int(opened_at_ms or 0), is_refilled=is_refilled == b"1")


def append_answer(reply: Sequence[int]) -> AppendAnswer:
    return AppendAnswer(
        status=_APPEND_STATUSES[reply[0]],
        next_positions=dict(zip(reply[3::2], reply[4::2], strict=True)),
        cancel_requested=bool(reply[1]),
        deadline_passed=bool(reply[2]),
    )


def seal_answer(reply: Sequence[bytes], outcome: SealedOutcome) -> SealAnswer:
    """`outcome` is what was asked to be sealed: without bytes in the reply, it was."""
    if reply[0] == b"contradiction":
        raise InvariantViolated(f"the outcome contradicts the verdict {reply[1].decode()}")
    if reply[0] == b"fenced":
        return Fenced()
    return Sealed(outcome=outcome if len(reply) == 1 else decode_sealed(reply[1]))


def cancel_answer(reply: Sequence[bytes]) -> CancelAnswer:
    if reply[0] == b"ended":
        return CancelAnswer(requested=False, known=True, outcome=decode_sealed(reply[1]) if reply[1] else None)
    return CancelAnswer(requested=True, known=reply[0] == b"requested")


def snapshot(reply: Sequence[Any] | None) -> StreamSnapshot | None:
    if reply is None:
        return None
    state = RequestState(reply[0].decode())
    return StreamSnapshot(
        state=state,
        tenant=text(reply[1]),
        chunks=decode_chunks(reply[2]),
        sealed=decode_sealed(reply[3]) if reply[3] else None,
        finished=state is RequestState.FINISHED,
    )


def request_record(request_id: RequestId, reply: Sequence[bytes] | None) -> RequestRecord | None:
    if reply is None:
        return None
    (state, sealed, pool, lane, tenant, deadline, fingerprint, seed, holder, origin,
     attempts, lost, cancel, registered, finished) = reply  # fmt: skip
    return RequestRecord(
        request_id=request_id,
        state=RequestState(state.decode()),
        pool=text(pool),
        lane=Lane(lane.decode()) if lane else Lane.INTERACTIVE,
        tenant=text(tenant),
        deadline_ms=_optional_number(deadline),
        fingerprint=text(fingerprint),
        seed=int(seed or 0),
        holder=Incarnation(text(holder)) if holder else None,
        coordinates=decode_origin(origin)[0] if origin else None,
        attempts=int(attempts or 0),
        lost_claims=int(lost or 0),
        cancel_reason=text(cancel) if cancel else None,
        registered_at_ms=int(registered or 0),
        finished_at_ms=_optional_number(finished),
        sealed=decode_sealed(sealed) if sealed else None,
    )


def owned_request(reply: Sequence[Any]) -> OwnedRequest:
    request_id, token, origin, pool, lane, tenant, deadline, attempts, state = reply
    coordinates, trace_headers = decode_origin(origin)
    return OwnedRequest(
        request_id=RequestId(text(request_id)),
        token=ClaimToken(text(token)),
        coordinates=coordinates,
        pool=text(pool),
        lane=Lane(lane.decode()),
        tenant=text(tenant),
        deadline_ms=_optional_number(deadline),
        attempt=attempts,
        state=RequestState(state.decode()),
        trace_headers=trace_headers,
    )
