"""Tool calls in a model's text: a pure function of the text, however it is cut, so that a failover changes nothing.

Two spellings are understood: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` anywhere (Hermes, Qwen), and
an answer that is nothing but such an object or a list of them (Llama, Mistral and others). Arguments are passed on
as the model wrote them. What looks like a call and is none stays content. White space beside a call is no content.
"""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

OPENING, CLOSING = "<tool_call>", "</tool_call>"

_STRING = r'"((?:[^"\\]|\\.)*)"'
_HEAD = re.compile(rf'\s*\{{\s*"name"\s*:\s*{_STRING}\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)', re.DOTALL)
_FIRST_KEY = re.compile(rf"\s*\[?\s*\{{\s*{_STRING}", re.DOTALL)
_NO_CALL = re.compile(r"\s*(?:\[\s*)?(?:\[\s*[^{\s]|\{\s*[^\"\s])")
_KEYS = frozenset({"name", "arguments", "parameters", "type", "function", "id"})
_BRACKETS = re.compile(r'[{}"\\]')


@dataclass(frozen=True, slots=True)
class ContentDelta:
    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    index: int
    text: str


Delta = ContentDelta | CallBegun | ArgumentsDelta


class ToolCallParser:
    """One choice's text, piece by piece. `num_calls` counts the calls that have begun."""

    def __init__(self, names: Collection[str]) -> None:
        """`names` are the tools on offer: an answer of plain JSON is a call only when it names one."""
        self._names = frozenset(names)
        self._buffer = ""
        self._space = ""
        self._scan = _ObjectScan()
        self._is_plain = False
        self._is_list = False
        self._deltas: list[Delta] = []
        self._state: Callable[[], bool] = self._start
        self.num_calls = 0

    def push(self, text: str) -> list[Delta]:
        self._buffer += text
        while self._buffer and self._state():
            pass
        return self._take()

    def finish(self) -> list[Delta]:
        """The text is over: what was held back is decided now."""
        rest, self._buffer = self._buffer, ""
        if self._state in (self._head, self._plain_head):
            opening = OPENING if self._state == self._head else ""
            if not self._add_whole_calls(rest, must_be_known=not opening):
                self._add_content(opening + rest)
        elif self._state in (self._start, self._content):
            self._add_content(rest)
        if not self.num_calls:
            self._tell(ContentDelta(self._space))
        return self._take()

    def _take(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def _tell(self, delta: Delta) -> None:
        if not isinstance(delta, ContentDelta) or delta.text:
            self._deltas.append(delta)

    def _add_content(self, text: str) -> None:
        """White space waits: it is content only when content follows."""
        text = self._space + text
        body = text.rstrip()
        self._space = text[len(body) :]
        self._tell(ContentDelta(body))

    # -- states: each takes what it can from the buffer; False: more text is needed

    def _start(self) -> bool:
        text = self._buffer.lstrip()
        if not text:
            return False
        self._state = self._plain_head if text[0] in "{[" else self._content
        return True

    def _content(self) -> bool:
        found = self._buffer.find(OPENING)
        if found >= 0:
            self._add_content(self._buffer[:found])
            self._buffer = self._buffer[found + len(OPENING) :]
            self._state = self._head
            return True
        certain = len(self._buffer) - _held_length(self._buffer)
        self._add_content(self._buffer[:certain])
        self._buffer = self._buffer[certain:]
        return False

    def _head(self) -> bool:
        head, end = _HEAD.match(self._buffer), self._buffer.find(CLOSING)
        if head is not None and not 0 <= end < head.end() and (name := _unquoted(head[1])) is not None:
            return self._begin(name, self._buffer[head.end() :])
        if end < 0:
            return False
        inside, self._buffer = self._buffer[:end], self._buffer[end + len(CLOSING) :]
        if not self._add_whole_calls(inside, must_be_known=False):
            self._add_content(OPENING + inside + CLOSING)
        self._state = self._content
        return True

    def _plain_head(self) -> bool:
        self._is_plain = True
        text = self._buffer
        if not self.num_calls and (bracket := re.match(r"\s*\[", text)):
            self._is_list = True
            text = text[bracket.end() :]
        head = _HEAD.match(text)
        if head is not None and _unquoted(head[1]) in self._names:
            return self._begin(head[1], text[head.end() :])
        key = _FIRST_KEY.match(self._buffer)
        is_none = head is not None or (key is not None and key[1] not in _KEYS) or _NO_CALL.match(self._buffer)
        if is_none:
            self._is_plain = False
            self._state = self._content
        return bool(is_none)

    def _begin(self, name: str, rest: str) -> bool:
        self._tell(CallBegun(self.num_calls, name))
        self.num_calls += 1
        self._space = ""
        self._scan = _ObjectScan()
        self._buffer = rest
        self._state = self._arguments
        return True

    def _arguments(self) -> bool:
        length = self._scan.feed(self._buffer)
        self._tell(ArgumentsDelta(self.num_calls - 1, self._buffer[:length]))
        self._buffer = self._buffer[length:]
        if self._scan.is_complete:
            self._state = self._plain_tail if self._is_plain else self._tail
        return self._scan.is_complete

    def _tail(self) -> bool:
        end = self._buffer.find(CLOSING)
        if end < 0:
            return False
        self._buffer = self._buffer[end + len(CLOSING) :]
        self._state = self._between
        return True

    def _plain_tail(self) -> bool:
        found = re.match(r"\s*\}\s*([,\]])" if self._is_list else r"\s*\}", self._buffer)
        if found is None:
            return False
        self._buffer = self._buffer[found.end() :]
        goes_on = self._is_list and found[1] == ","
        self._state = self._plain_head if goes_on else self._between
        return True

    def _between(self) -> bool:
        self._buffer = self._buffer.lstrip()
        if self._buffer:
            self._state = self._content
        return bool(self._buffer)

    def _add_whole_calls(self, text: str, *, must_be_known: bool) -> bool:
        """Calls in another order of keys than the one that is streamed. False: it is no call."""
        calls = _whole_calls(text)
        if not calls or (must_be_known and any(name not in self._names for name, _ in calls)):
            return False
        self._space = ""
        for name, arguments in calls:
            self._tell(CallBegun(self.num_calls, name))
            self._tell(ArgumentsDelta(self.num_calls, arguments))
            self.num_calls += 1
        return True


class _ObjectScan:
    """Finds where a JSON object ends, over any number of pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False
        self.is_complete = False

    def feed(self, text: str) -> int:
        """How much of the text belongs to it."""
        start = 0
        if self._is_escaped and text:
            self._is_escaped = False
            start = 1
        for found in _BRACKETS.finditer(text, start):
            if found.start() < start:
                continue
            start = self._take(found[0], found.end())
            if self.is_complete:
                return found.end()
        self._is_escaped = start > len(text)
        return len(text)

    def _take(self, character: str, end: int) -> int:
        """Where to look on: behind the character, or behind the one that it escapes."""
        if self._is_in_string:
            if character == "\\":
                return end + 1
            self._is_in_string = character != '"'
        elif character == '"':
            self._is_in_string = True
        elif character in "{}":
            self._depth += 1 if character == "{" else -1
            self.is_complete = self._depth == 0
        return end


def _held_length(text: str) -> int:
    """The longest end of the text that may be the beginning of a call."""
    return next(
        (size for size in range(min(len(text), len(OPENING) - 1), 0, -1) if OPENING.startswith(text[-size:])), 0
    )


def _unquoted(raw: str) -> str | None:
    try:
        text = json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return None
    return text if isinstance(text, str) else None


def _whole_calls(text: str) -> list[tuple[str, str]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = [_whole_call(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call is not None] if None not in calls else []


def _whole_call(value: Any) -> tuple[str, str] | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        return value["name"], arguments
    return (value["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None
