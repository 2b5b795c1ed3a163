"""Messages on the socket between shell and engine process: length, kind, msgpack. Knows the wire, no meaning.

A frame is four bytes of length (big endian), one byte that names the message's class, and the msgpack body. The
class byte is our own tag: msgspec tags its own structs only, and `engine/events.py` is plain dataclasses.
"""

import socket
import struct
from typing import Any, TypeAlias

import msgspec

from services.worker.engine.events import (
    Cancel,
    EngineDied,
    EngineReady,
    Shutdown,
    StepResult,
    Submit,
)

Message: TypeAlias = Submit | Cancel | Shutdown | StepResult | EngineReady | EngineDied

_KINDS: tuple[type[Any], ...] = (Submit, Cancel, Shutdown, StepResult, EngineReady, EngineDied)
_TAGS = {kind: index for index, kind in enumerate(_KINDS)}
_DECODERS = tuple(msgspec.msgpack.Decoder(kind) for kind in _KINDS)
_HEADER = struct.Struct(">IB")
_READ_BYTES = 262_144
MAX_FRAME_BYTES = 1 << 30

_encoder = msgspec.msgpack.Encoder()


class BrokenFrame(ValueError):
    """The bytes on the socket are not ours: the stream cannot be trusted any further."""


class PeerClosed(EOFError):
    """The other process is gone."""


def encode_frame(message: Message) -> bytes:
    body = _encoder.encode(message)
    return _HEADER.pack(len(body), _TAGS[type(message)]) + body


class FrameReader:
    """Cuts a byte stream into messages, whatever the borders of the reads."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Every message that `data` completes, in order. Raises `BrokenFrame`."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, tag = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + length
            _check(length, tag)
            if end > len(buffer):
                break
            messages.append(_decode(tag, bytes(memoryview(buffer)[start + _HEADER.size : end])))
            start = end
        if start:
            del buffer[:start]
        return messages


def _check(length: int, tag: int) -> None:
    if tag >= len(_KINDS):
        raise BrokenFrame(f"unknown message kind {tag}")
    if length > MAX_FRAME_BYTES:
        raise BrokenFrame(f"a frame of {length} bytes is longer than {MAX_FRAME_BYTES}")


def _decode(tag: int, body: bytes) -> Message:
    try:
        message: Message = _DECODERS[tag].decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BrokenFrame(f"a {_KINDS[tag].__name__} cannot be decoded: {error}") from error
    return message


class FrameChannel:
    """The engine process's blocking end of the socket. One thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = FrameReader()

    def send(self, message: Message) -> None:
        """Blocks while the shell reads nothing: that is the back-pressure. Raises `PeerClosed`."""
        try:
            self._connection.sendall(encode_frame(message))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerClosed from error

    def receive(self, *, is_blocking: bool) -> list[Message]:
        """What has arrived; with `is_blocking` waits until something does. Raises `PeerClosed`."""
        flags = 0 if is_blocking else socket.MSG_DONTWAIT
        try:
            data = self._connection.recv(_READ_BYTES, flags)
        except BlockingIOError:
            return []
        except ConnectionResetError as error:
            raise PeerClosed from error
        if not data:
            raise PeerClosed
        return self._reader.feed(data)
