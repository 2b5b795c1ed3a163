"""What names the beginning of a prompt."""

import json
from typing import Any

from services.gateway.prefix_key import prefix_key
from shared.contracts.requests import RequestKind
from shared.openai.requests import parse_request


def chat(*messages: tuple[str, str], tenant: str = "acme", **changes: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": role, "content": text} for role, text in messages], **changes}
    return prefix_key(parse_request(json.dumps(body).encode(), kind=RequestKind.CHAT), tenant)


def completion(prompt: Any) -> bytes:
    body = {"model": "m", "prompt": prompt}
    return prefix_key(parse_request(json.dumps(body).encode(), kind=RequestKind.COMPLETION), "acme")


def test_chats_with_the_same_instructions_have_one_name_whatever_is_asked() -> None:
    assert chat(("system", "be brief"), ("user", "a")) == chat(("system", "be brief"), ("user", "b"))
    assert chat(("system", "be brief"), ("user", "a")) != chat(("system", "be long"), ("user", "a"))


def test_tools_stand_before_the_instructions() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    assert chat(("user", "a"), tools=[tool]) == chat(("user", "b"), tools=[tool])
    assert chat(("user", "a"), tools=[tool]) != chat(("user", "a"))


def test_without_instructions_the_first_message_counts_as_far_as_it_can_be_shared() -> None:
    assert chat(("user", "x" * 600), ("assistant", "y")) == chat(("user", "x" * 700))
    assert chat(("user", "a")) != chat(("user", "b"))


def test_tenants_do_not_share() -> None:
    assert chat(("system", "s"), ("user", "a"), tenant="one") != chat(("system", "s"), ("user", "a"), tenant="two")


def test_a_completion_is_named_by_how_its_prompt_begins() -> None:
    assert completion("x" * 512 + "a") == completion("x" * 512 + "b")
    assert completion("a") != completion("b")
    assert completion([1, 2, 3]) == completion([1, 2, 3]) != completion([1, 2, 4])
