"""How chunks, outcomes and wake-ups are written in Redis: msgpack arrays, no field names.

The scripts splice encoded chunks and outcomes into messages without reading them, so an encoded value must be
exactly one msgpack object. It knows nothing of Redis itself.
"""

from collections.abc import Iterable, Sequence

import msgpack
import msgspec

from shared.contracts.events import Chunk, FinishReason, Outcome, SealedOutcome, TokenLogprob
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Coordinates, WireFormat
from shared.ledger.records import Append, StreamMessage

_encoder = msgspec.msgpack.Encoder()


class _LogprobWire(msgspec.Struct, array_like=True, frozen=True):
    token_id: int
    text: str
    logprob: float | None
    top: list[tuple[int, str, float]]


class _ChunkWire(msgspec.Struct, array_like=True, frozen=True):
    choice: int
    position: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None = None
    logprobs: tuple[_LogprobWire, ...] | None = None
    prompt_logprobs: tuple[_LogprobWire, ...] | None = None


class _SealedWire(msgspec.Struct, array_like=True, frozen=True):
    request_id: str
    outcome: Outcome
    wire_format: WireFormat
    value: bytes
    headers: tuple[tuple[bytes, bytes | None], ...]
    reply_to: str | None
    sealed_at_ms: int


class _FrameWire(msgspec.Struct, array_like=True, frozen=True):
    """One request's part of a wake-up; the scripts build it by concatenation (`prelude.lua`)."""

    request_id: str
    chunks: list[_ChunkWire]
    terminal: _SealedWire | None


class _OriginWire(msgspec.Struct, array_like=True, frozen=True):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    trace_headers: tuple[tuple[bytes, bytes], ...]


_chunk_decoder = msgspec.msgpack.Decoder(_ChunkWire)
_sealed_decoder = msgspec.msgpack.Decoder(_SealedWire)
_message_decoder = msgspec.msgpack.Decoder(list[_FrameWire])
_origin_decoder = msgspec.msgpack.Decoder(_OriginWire)


def encode_chunk(chunk: Chunk) -> bytes:
    if chunk.logprobs is None and chunk.prompt_logprobs is None:
        return _encoder.encode((chunk.choice, chunk.position, chunk.token_ids, chunk.text, chunk.finish_reason))
    head = (chunk.choice, chunk.position, chunk.token_ids, chunk.text, chunk.finish_reason)
    logprobs = _logprob_arrays(chunk.logprobs)
    if chunk.prompt_logprobs is None:
        return _encoder.encode((*head, logprobs))
    return _encoder.encode((*head, logprobs, _logprob_arrays(chunk.prompt_logprobs)))


def _logprob_arrays(entries: tuple[TokenLogprob, ...] | None) -> list[tuple[object, ...]] | None:
    if entries is None:
        return None
    return [(entry.token_id, entry.text, entry.logprob, entry.top) for entry in entries]


def _logprobs(wires: tuple[_LogprobWire, ...] | None) -> tuple[TokenLogprob, ...] | None:
    if wires is None:
        return None
    return tuple(
        TokenLogprob(token_id=entry.token_id, text=entry.text, logprob=entry.logprob, top=tuple(entry.top))
        for entry in wires
    )


def _chunk(wire: _ChunkWire) -> Chunk:
    return Chunk(
        choice=wire.choice,
        position=wire.position,
        token_ids=wire.token_ids,
        text=wire.text,
        logprobs=_logprobs(wire.logprobs),
        finish_reason=wire.finish_reason,
        prompt_logprobs=_logprobs(wire.prompt_logprobs),
    )


def decode_chunks(encoded: Iterable[bytes]) -> list[Chunk]:
    return [_chunk(_chunk_decoder.decode(part)) for part in encoded]


def _name_bytes(name: str) -> bytes:
    """Header names come from anybody: what is not UTF-8 in them travels as surrogate escapes."""
    return name.encode("utf-8", "surrogateescape")


def _name(encoded: bytes) -> str:
    return encoded.decode("utf-8", "surrogateescape")


def encode_sealed(outcome: SealedOutcome) -> bytes:
    return _encoder.encode(
        (
            outcome.request_id,
            outcome.outcome,
            outcome.wire_format,
            outcome.value,
            [(_name_bytes(name), value) for name, value in outcome.headers],
            outcome.reply_to,
            outcome.sealed_at_ms,
        )
    )


def _sealed(wire: _SealedWire) -> SealedOutcome:
    return SealedOutcome(
        request_id=RequestId(wire.request_id),
        outcome=wire.outcome,
        wire_format=wire.wire_format,
        value=wire.value,
        headers=tuple((_name(name), value) for name, value in wire.headers),
        reply_to=wire.reply_to,
        sealed_at_ms=wire.sealed_at_ms,
    )


def decode_sealed(encoded: bytes) -> SealedOutcome:
    return _sealed(_sealed_decoder.decode(encoded))


def decode_message(encoded: bytes) -> list[StreamMessage]:
    """A wake-up carries the frames of every request that one flush (or one finish) touched."""
    messages: list[StreamMessage] = []
    for frame in _message_decoder.decode(encoded):
        request_id = RequestId(frame.request_id)
        messages.extend(StreamMessage(request_id=request_id, chunk=_chunk(chunk)) for chunk in frame.chunks)
        if frame.terminal is not None:
            messages.append(StreamMessage(request_id=request_id, terminal=_sealed(frame.terminal)))
    return messages


def encode_origin(coordinates: Coordinates, trace_headers: Sequence[tuple[str, str]]) -> bytes:
    return _encoder.encode(
        (
            coordinates.topic,
            coordinates.partition,
            coordinates.offset,
            coordinates.timestamp_ms,
            [(_name_bytes(name), _name_bytes(value)) for name, value in trace_headers],
        )
    )


def decode_origin(encoded: bytes) -> tuple[Coordinates, tuple[tuple[str, str], ...]]:
    wire = _origin_decoder.decode(encoded)
    coordinates = Coordinates(
        topic=wire.topic, partition=wire.partition, offset=wire.offset, timestamp_ms=wire.timestamp_ms
    )
    return coordinates, tuple((_name(name), _name(value)) for name, value in wire.trace_headers)


def encode_flush(batch: Sequence[Append]) -> bytes:
    """The flush as `append.lua` unpacks it; the chunks inside stay encoded.

    Redis' cmsgpack refuses msgpack's `bin` type, which msgspec writes for bytes; the old `raw` type carries any bytes.
    """
    entries = [(entry.request_id, entry.token, [_judged(chunk) for chunk in entry.chunks]) for entry in batch]
    encoded: bytes = msgpack.packb(entries, use_bin_type=False)
    return encoded


def _judged(chunk: Chunk) -> tuple[int, int, int, int, bytes]:
    """What the script judges a chunk by, and the chunk."""
    is_last = chunk.finish_reason is not None
    if not chunk.token_ids and not is_last:
        raise ValueError("a chunk without tokens can only be a choice's last: nothing tells its repeat apart")
    return chunk.choice, chunk.position, len(chunk.token_ids), int(is_last), encode_chunk(chunk)
