"""The exact bytes of a request's outcome, as they will be on the results topic (DELIVERY line 6).

Deterministic: equal arguments give equal bytes, on any worker and in any process, so that every claimer of a verdict
seals the same result. No clock: the instant is an argument.
"""

from collections.abc import Sequence
from dataclasses import replace

from shared.contracts.errors import OutcomeTooLarge
from shared.contracts.events import InferenceOutcome, Outcome, SealedOutcome
from shared.contracts.outcome_codec import encode_outcome
from shared.contracts.requests import RequestEnvelope, WireFormat
from shared.openai.envelope import Headers, result_headers
from shared.openai.outcomes import outcome_error, render_outcome

RECORD_OVERHEAD_BYTES = 512
"""Room for the key, lengths and the batch that Kafka wraps around one record."""
_HEADER_OVERHEAD_BYTES = 8


def seal_outcome(
    envelope: RequestEnvelope,
    outcome: InferenceOutcome,
    *,
    sealed_at_ms: int,
    max_bytes: int,
    trace_headers: Sequence[tuple[str, str]] = (),
) -> SealedOutcome:
    """An outcome that does not fit `max_bytes` becomes a small failed one that says so."""
    assert envelope.request_id == outcome.request_id, "outcome of another request"
    sealed = _seal(envelope, outcome, sealed_at_ms, trace_headers)
    if (size := record_bytes(sealed.value, sealed.headers)) <= max_bytes:
        return sealed
    refused = _too_large(outcome, size, max_bytes)
    sealed = _seal(envelope, refused, sealed_at_ms, trace_headers)
    if record_bytes(sealed.value, sealed.headers) <= max_bytes:
        return sealed
    # The producer's own headers and key alone fill a record: it has to find its request by id.
    bare = replace(envelope, foreign_headers=(), key=None, event_id=None)
    return _seal(bare, refused, sealed_at_ms, trace_headers)


def record_bytes(value: bytes, headers: Headers) -> int:
    """An upper bound of the size of a record with this value and these headers."""
    headers_bytes = sum(
        len(name.encode("utf-8", "surrogateescape")) + len(content or b"") + _HEADER_OVERHEAD_BYTES
        for name, content in headers
    )
    return len(value) + headers_bytes + RECORD_OVERHEAD_BYTES


def _seal(
    envelope: RequestEnvelope,
    outcome: InferenceOutcome,
    sealed_at_ms: int,
    trace_headers: Sequence[tuple[str, str]],
) -> SealedOutcome:
    is_protobuf = envelope.wire_format is WireFormat.PROTOBUF
    return SealedOutcome(
        request_id=envelope.request_id,
        outcome=outcome.outcome,
        wire_format=envelope.wire_format,
        value=encode_outcome(outcome) if is_protobuf else render_outcome(outcome),
        headers=result_headers(envelope, outcome.outcome, sealed_at_ms=sealed_at_ms, trace_headers=trace_headers),
        reply_to=envelope.reply_to,
        sealed_at_ms=sealed_at_ms,
    )


def _too_large(outcome: InferenceOutcome, size: int, max_bytes: int) -> InferenceOutcome:
    error = OutcomeTooLarge(
        f"The result has {size} bytes, more than the {max_bytes} that fit a record; ask for fewer tokens, "
        "choices or logprobs."
    )
    return replace(outcome, outcome=Outcome.FAILED, choices=(), error=outcome_error(error))
