"""Reads OpenAI's chunks and result objects, chat and completions alike. Imports nothing of the platform."""

import time
from typing import Any

from tests.chaos.asks import Answer, Ask


def take_chunk(ask: Ask, payload: dict[str, Any]) -> None:
    """One chunk of a stream into what the ask has heard."""
    if payload.get("usage"):
        ask.usage = payload["usage"]["completion_tokens"]
    for choice in payload["choices"]:
        said = ask.said[choice["index"]]
        delta = choice.get("delta", choice)
        text = delta.get("content") or delta.get("text") or ""
        said.text += text
        for call in delta.get("tool_calls") or ():
            heard = said.calls.setdefault(call["index"], ["", ""])
            heard[0] += call["function"].get("name") or ""
            heard[1] += call["function"].get("arguments") or ""
        said.tokens += tokens_of(choice.get("logprobs"))
        if text or delta.get("tool_calls"):
            ask.arrivals.append(time.monotonic())
        if choice["finish_reason"]:
            said.finish_reason = choice["finish_reason"]


def result_answers(result: dict[str, Any], num_choices: int) -> tuple[list[Answer], int]:
    """The answers of a result object by index, and its completion tokens."""
    answers = [Answer() for _ in range(num_choices)]
    if "choices" not in result:
        return [Answer(text=str(result.get("error")))] * num_choices, 0
    for choice in result["choices"]:
        message = choice.get("message", choice)
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        answers[choice["index"]] = Answer(
            text=message.get("content") or message.get("text") or "",
            finish_reason=choice["finish_reason"],
            calls={index: [call["name"], call["arguments"]] for index, call in enumerate(calls)},
            tokens=tokens_of(choice.get("logprobs")),
        )
    return answers, result["usage"]["completion_tokens"]


def tokens_of(logprobs: dict[str, Any] | None) -> list[str]:
    """The tokens that log-probabilities are given for, in either endpoint's shape."""
    if not logprobs:
        return []
    if "tokens" in logprobs:
        return list(logprobs["tokens"])
    return [token["token"] for token in logprobs["content"] or ()]
