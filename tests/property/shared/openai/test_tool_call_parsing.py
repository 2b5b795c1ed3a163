"""Reading tool calls is a pure function of the text: cuts change nothing, and nothing is said twice or lost."""

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.events import ChoiceResult, FinishReason
from shared.contracts.requests import ChatMessage, InferenceRequest, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool
from shared.openai.called_tools import message_text, with_tool_calls
from shared.openai.outcomes import call_object
from shared.openai.tool_calls import ArgumentsDelta, CallBegun, ContentDelta, ToolCallParser

PIECES = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "<tool", "{", "}", "[", "]", '"', "\\", '"name"', ": ", '"f"', ", ",
        '"arguments": {', '"arguments"', '{"name": "f", "arguments": {}}', '{"name": "f", "arguments": {"x": "}"}}',
        "\n", " ", "word", "é",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map("".join)
Joined = tuple[str, tuple[str, ...], tuple[str, ...]]


def joined(pieces: list[str]) -> Joined:
    parser = ToolCallParser({"f"})
    deltas = [delta for piece in pieces for delta in parser.push(piece)] + parser.finish()
    names = [delta.name for delta in deltas if isinstance(delta, CallBegun)]
    arguments = [""] * len(names)
    for delta in deltas:
        if isinstance(delta, ArgumentsDelta):
            arguments[delta.index] += delta.text
    text = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    return text, tuple(names), tuple(arguments)


@settings(max_examples=500)
@given(text=TEXTS, data=st.data())
def test_cuts_change_nothing(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = joined([text])
    assert joined(pieces) == whole
    assert joined(list(text)) == whole


@given(text=TEXTS)
def test_without_a_call_the_content_is_the_text(text: str) -> None:
    content, names, _ = joined([text])
    if not names:
        assert content == text


@given(
    before=st.text("ab \n", max_size=8),
    arguments=st.lists(
        st.dictionaries(st.text(max_size=4), st.text(max_size=8) | st.integers()), min_size=1, max_size=4
    ),
)
def test_calls_that_were_written_are_read(before: str, arguments: list[dict[str, object]]) -> None:
    request = InferenceRequest(
        kind=RequestKind.CHAT,
        model=None,
        messages=(ChatMessage(role="user", content="x"),),
        sampling=SamplingParameters(),
        tools=(Tool(name="f"),),
    )
    written = [json.dumps({"name": "f", "arguments": one}) for one in arguments]
    text = before + "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in written)
    choice = ChoiceResult(index=0, text=text, token_ids=(), finish_reason=FinishReason.STOP)
    read = with_tool_calls(choice, request, "0" * 32)
    assert [json.loads(call.arguments) for call in read.tool_calls] == arguments
    assert read.text == before.rstrip()
    assert read.finish_reason is FinishReason.TOOL_CALLS
    assert with_tool_calls(choice, request, "0" * 32) == read
    message = {"content": read.text, "tool_calls": [call_object(call) for call in read.tool_calls]}
    again = with_tool_calls(replace(choice, text=message_text(message)), request, "0" * 32)
    assert again.tool_calls == read.tool_calls
