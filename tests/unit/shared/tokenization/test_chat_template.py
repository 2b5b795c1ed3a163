import json
from datetime import datetime

import jinja2
import pytest

from shared.contracts.errors import InvalidRequest
from shared.contracts.requests import ChatMessage
from shared.contracts.tools import Tool, ToolCall
from shared.tokenization.chat_template import ChatTemplate
from tests.fixtures.tiny_tokenizers import CHATML

MESSAGES = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="<hi> & 'bye'", name="Ann"),
]


def render(source: str, **special_tokens: str) -> str:
    return ChatTemplate(source, special_tokens=special_tokens).render(MESSAGES)


def test_messages_are_rendered_and_nothing_is_escaped() -> None:
    assert render(CHATML) == (
        "<|start|>system\nBe brief.<|end|>\n<|start|>user\n<hi> & 'bye'<|end|>\n<|start|>assistant\n"
    )


def test_the_generation_prompt_can_be_left_out() -> None:
    assert not ChatTemplate(CHATML).render(MESSAGES, add_generation_prompt=False).endswith("assistant\n")


def test_special_tokens_are_variables() -> None:
    assert render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", bos_token="<s>", eos_token="</s>") == (
        "<s>Be brief.</s>"
    )


def test_a_name_is_there_only_when_given() -> None:
    assert render("{% for m in messages %}{{ m.name is defined }} {% endfor %}") == "False True "


def test_blocks_leave_no_blank_lines() -> None:
    assert render("{% if true %}\n  {% if true %}\nx\n  {% endif %}\n{% endif %}\n") == "x\n"


def test_loops_can_be_left() -> None:
    assert render("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}") == "system"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ messages[1].content | tojson }}") == "\"<hi> & 'bye'\""
    assert render("{{ {'b': 1, 'a': 'ü'} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": "ü",\n "b": 1\n}'


def test_the_date_is_at_hand() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.now().year), str(datetime.now().year - 1)}


def test_tools_and_documents_are_none() -> None:
    assert render("{{ tools is none and documents is none }}") == "True"


def test_what_is_marked_for_training_is_only_its_text() -> None:
    assert render("a{% generation %}b{{ messages[0].role }}{% endgeneration %}c") == "absystemc"


def test_a_refusal_of_the_template_is_the_callers_error() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(attack: str) -> None:
    with pytest.raises(InvalidRequest):
        render(attack)


def test_messages_are_the_same_after_rendering() -> None:
    before = list(MESSAGES)
    render(CHATML)
    assert before == MESSAGES


def test_a_syntax_error_is_found_when_compiling() -> None:
    with pytest.raises(jinja2.TemplateSyntaxError):
        ChatTemplate("{% for %}")


@pytest.mark.parametrize("source", ["{{ 1 + messages[0].content }}", "{{ 1 / 0 }}", "{{ messages[9].role.x }}"])
def test_a_template_that_stumbles_refuses_the_messages(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template"):
        render(source)


TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
TOOL = Tool(name="look_up", description="A word", parameters='{"type": "object", "properties": {"word": {}}}')


def test_tools_are_rendered_as_openai_writes_them() -> None:
    rendered = json.loads(ChatTemplate(TOOLS).render(MESSAGES, tools=[TOOL]))
    assert rendered == {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "A word",
            "parameters": {"type": "object", "properties": {"word": {}}},
        },
    }


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    rendered = json.loads(ChatTemplate(TOOLS).render(MESSAGES, tools=[Tool(name="now")]))
    assert rendered["function"] == {"name": "now", "parameters": {"type": "object", "properties": {}}}


def test_a_template_without_a_place_for_tools_refuses_them_by_name() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ChatTemplate(CHATML).render(MESSAGES, tools=[TOOL])
    assert refusal.value.param == "tools"
    assert ChatTemplate(TOOLS).render(MESSAGES) == ""


def test_calls_and_their_answers_are_there_with_arguments_as_objects() -> None:
    source = (
        "{% for m in messages %}{% for call in m.tool_calls %}{{ call.function.name }}({{ call.function.arguments.x }})"
        "={{ call.id }} {% endfor %}{% if m.tool_call_id is defined %}{{ m.tool_call_id }}:{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    calls = (ToolCall(id="c1", name="f", arguments='{"x": 7}'),)
    messages = [
        ChatMessage(role="assistant", content="", tool_calls=calls),
        ChatMessage(role="tool", content="done", tool_call_id="c1"),
    ]
    assert ChatTemplate(source).render(messages) == "f(7)=c1 c1:done"
