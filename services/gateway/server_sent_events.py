"""Bytes of a `text/event-stream`, put together by hand: this is the hot path. Knows no HTTP and no JSON.

An event's `id:` says how far each choice was delivered, with a digest of the delivered tokens:
`<tokens>.<characters>.<crc32>` per choice, joined by `,`; a trailing `f` marks a finished choice.
"""

import re

from services.gateway.stream_order import StreamPosition
from shared.contracts.errors import InvalidRequest

PING = b": ping\n"
"""A comment line without the blank line that ends an event: the official client takes a blank line after an
earlier `id:` for an event, and its empty data for broken JSON."""
DONE = b"data: [DONE]\n\n"

LAST_EVENT_ID = "last-event-id"

_MOST_CHOICES = 4_096
_POSITION = re.compile(r"(\d{1,10})\.(\d{1,12})\.([0-9a-f]{8})(f?)", re.ASCII)


def event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"


def event_with_id(payload: bytes, identifier: bytes) -> bytes:
    return b"id: " + identifier + b"\ndata: " + payload + b"\n\n"


def format_position(position: StreamPosition) -> bytes:
    """One choice's part of an event id."""
    _, num_tokens, num_characters, digest, is_finished = position
    return b"%d.%d.%08x%s" % (num_tokens, num_characters, digest, b"f" if is_finished else b"")


def parse_event_id(text: str) -> list[StreamPosition]:
    """Raises `InvalidRequest` for what `format_position` has not written."""
    parts = text.strip().split(",", _MOST_CHOICES)
    matches = [_POSITION.fullmatch(part) for part in parts]
    if len(parts) > _MOST_CHOICES or not all(matches):
        raise InvalidRequest("Last-Event-ID is not an id of this stream", param=LAST_EVENT_ID)
    return [
        StreamPosition(
            choice=choice,
            num_tokens=int(match[1]),
            num_characters=int(match[2]),
            digest=int(match[3], 16),
            is_finished=bool(match[4]),
        )
        for choice, match in enumerate(matches)
        if match is not None
    ]
