"""Tool calls are read from a model's text; what is none stays text."""

import json

import pytest

from shared.openai.tool_calls import ArgumentsDelta, CallBegun, ContentDelta, Delta, ToolCallParser

NAMES = ("open_gate", "close_gate")


def read(text: str, size: int | None = None) -> list[Delta]:
    """`size` characters at a time."""
    parser = ToolCallParser(NAMES)
    step = size or max(1, len(text))
    deltas = [delta for start in range(0, len(text), step) for delta in parser.push(text[start : start + step])]
    return deltas + parser.finish()


def content(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))


def calls(deltas: list[Delta]) -> list[tuple[str, str]]:
    begun = [delta for delta in deltas if isinstance(delta, CallBegun)]
    assert [delta.index for delta in begun] == list(range(len(begun)))
    return [
        (one.name, "".join(d.text for d in deltas if isinstance(d, ArgumentsDelta) and d.index == one.index))
        for one in begun
    ]


CALL = '{"name": "open_gate", "arguments": {"a": "{\\"}", "b": [1]}}'
ARGUMENTS = '{"a": "{\\"}", "b": [1]}'

CASES = [
    ("", "", []),
    ("Just text.", "Just text.", []),
    ("  spaced \n", "  spaced \n", []),
    (f"<tool_call>\n{CALL}\n</tool_call>", "", [("open_gate", ARGUMENTS)]),
    (f"<tool_call>{CALL}</tool_call>", "", [("open_gate", ARGUMENTS)]),
    (f"\n\nLet me see. \n<tool_call>\n{CALL}\n</tool_call>\n", "\n\nLet me see.", [("open_gate", ARGUMENTS)]),
    (
        f'<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "other", "arguments": {{}}}}</tool_call>',
        "",
        [("open_gate", ARGUMENTS), ("other", "{}")],
    ),
    (f"<tool_call>{CALL}</tool_call> and then", "and then", [("open_gate", ARGUMENTS)]),
    ('<tool_call>{"arguments": {"x": 1}, "name": "f"}</tool_call>', "", [("f", '{"x": 1}')]),
    ('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("f", '{"x": 1}')]),
    ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    ("<tool_call>no call</tool_call>!", "<tool_call>no call</tool_call>!", []),
    ("<tool_call>never closed", "<tool_call>never closed", []),
    (f"<tool_call>{CALL}", "", [("open_gate", ARGUMENTS)]),
    ('<tool_call>{"name": "f", "arguments": {"half": [1, ', "", [("f", '{"half": [1, ')]),
    ("a <tool_ca", "a <tool_ca", []),
    ("1 < 2 and <tool_cart>", "1 < 2 and <tool_cart>", []),
    (CALL, "", [("open_gate", ARGUMENTS)]),
    (f" \n{CALL}\n", "", [("open_gate", ARGUMENTS)]),
    (CALL.replace("arguments", "parameters"), "", [("open_gate", ARGUMENTS)]),
    (f"[{CALL}, {CALL}]", "", [("open_gate", ARGUMENTS)] * 2),
    (f'{{"type": "function", "function": {CALL}}}', "", [("open_gate", ARGUMENTS)]),
    ('{"name": "Anna", "age": 7}', '{"name": "Anna", "age": 7}', []),
    ('{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', []),
    ('{"city": "Rome"}', '{"city": "Rome"}', []),
    ("[1, 2]", "[1, 2]", []),
    ("{}", "{}", []),
    ("{ not JSON", "{ not JSON", []),
]


@pytest.mark.parametrize("size", [None, 1, 3, 7])
@pytest.mark.parametrize(("text", "expected_content", "expected_calls"), CASES, ids=[case[0][:40] for case in CASES])
def test_text_is_read_as_content_and_calls_however_it_is_cut(
    text: str, expected_content: str, expected_calls: list[tuple[str, str]], size: int | None
) -> None:
    deltas = read(text, size)
    assert content(deltas) == expected_content
    assert calls(deltas) == expected_calls


def test_arguments_are_streamed_before_they_are_complete() -> None:
    parser = ToolCallParser(NAMES)
    assert parser.push('<tool_call>{"name": "open_gate", "argu') == []
    assert parser.push('ments": {"ga') == [CallBegun(0, "open_gate"), ArgumentsDelta(0, '{"ga')]
    assert parser.push('te": "}"') == [ArgumentsDelta(0, 'te": "}"')]
    assert parser.push("}}</tool_call>") == [ArgumentsDelta(0, "}")]
    assert parser.finish() == []
    assert parser.num_calls == 1


def test_content_is_streamed_as_it_comes() -> None:
    parser = ToolCallParser(NAMES)
    assert parser.push("Hello") == [ContentDelta("Hello")]
    assert parser.push(" world <") == [ContentDelta(" world")]
    assert parser.push("b>") == [ContentDelta(" <b>")]


def test_an_object_that_cannot_be_a_call_is_not_held_back() -> None:
    parser = ToolCallParser(NAMES)
    assert parser.push('{"city"') == [ContentDelta('{"city"')]


def test_escaped_names_are_told_unescaped() -> None:
    assert calls(read('<tool_call>{"name": "a\\u0062", "arguments": {}}</tool_call>')) == [("ab", "{}")]


def test_a_closing_tag_inside_arguments_closes_nothing() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>'
    assert calls(read(text, 1)) == [("f", json.dumps({"x": "</tool_call>"}))]
