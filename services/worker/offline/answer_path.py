"""What a step's result costs on its way to text: written to the socket, read from it, detokenized.

By the very parts that a worker has for it, whose two processes are one thread here, so that each part's time is its
own. Knows no model; the steps were done before.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from services.worker.engine.events import StepResult
from services.worker.frames import FrameChannel, FrameReader, Message
from services.worker.running_choice import Detokenizer

WRITTEN, READ, DETOKENIZED = "socket, engine's end", "socket, shell's end", "detokenizing (shell)"
_READ_BYTES = 262_144


@dataclass(slots=True)
class AnswerPath:
    """`seconds` by part, of all results; `texts` of each request's first choice."""

    seconds: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def send_and_read(
    results: list[StepResult],
    new_detokenizer: Callable[[], Detokenizer] | None,
    *,
    clock: Callable[[], float] = time.thread_time,
) -> AnswerPath:
    """Every result by itself, in turn. Without a detokenizer tokens stay tokens."""
    path = AnswerPath(seconds={WRITTEN: 0.0, READ: 0.0})
    detokenizers: dict[str, Detokenizer] = {}
    engine_end, shell_end = socket.socketpair()
    with closing(engine_end), closing(shell_end):
        channel, reader = FrameChannel(engine_end), FrameReader()
        for result in results:
            started = clock()
            channel.send(result)
            written = clock()
            messages: list[Message] = []
            while not messages:
                messages = reader.feed(shell_end.recv(_READ_BYTES))
            read = clock()
            path.seconds[WRITTEN] += written - started
            path.seconds[READ] += read - written
            if new_detokenizer is not None:
                _detokenize(path, messages, detokenizers, new_detokenizer)
                path.seconds[DETOKENIZED] = path.seconds.get(DETOKENIZED, 0.0) + clock() - read
    return path


def _detokenize(
    path: AnswerPath,
    messages: list[Message],
    detokenizers: dict[str, Detokenizer],
    new_detokenizer: Callable[[], Detokenizer],
) -> None:
    for message in messages:
        assert isinstance(message, StepResult), "an engine's step says nothing else"
        for event in message.tokens:
            if event.request_id not in detokenizers:
                detokenizers[event.request_id] = new_detokenizer()
            text = detokenizers[event.request_id].push(event.token_ids)
            path.texts[event.request_id] = path.texts.get(event.request_id, "") + text
