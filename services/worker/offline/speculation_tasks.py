"""Four things that people ask a model for, as token ids: how well a draft guesses depends on them. Knows no engine."""

from __future__ import annotations

from services.worker.offline.english_text import Part, builtin_text
from shared.contracts.requests import ChatMessage
from shared.tokenization.tokenizer import Tokenizer

TASKS = ("chat", "summarise", "edit code", "4k context")
LONG_TOKENS = 4096

_QUESTIONS = (
    "Explain how a refrigerator works.",
    "Give me three tips for learning a language.",
    "Why is the sky blue?",
    "How do I make pancakes?",
    "What are the benefits of regular exercise?",
    "Write a short story about a lighthouse keeper.",
    "Explain the difference between TCP and UDP.",
    "Describe a sunset over the ocean.",
)
_FUNCTIONS = ("total", "average", "largest", "shorten", "parse", "collect", "count", "merge")


def is_long(task: str) -> bool:
    return task == TASKS[-1]


def task_prompts(task: str, tokenizer: Tokenizer, count: int, *, context_tokens: int = LONG_TOKENS) -> list[list[int]]:
    """`count` prompts of one of TASKS; those of the long one have about `context_tokens` tokens."""
    text = builtin_text(Part.HELD)
    match task:
        case "chat":
            asked = [_QUESTIONS[index % len(_QUESTIONS)] for index in range(count)]
        case "summarise":
            asked = [f"Summarise this text:\n{text[2400 * index : 2400 * index + 1500]}" for index in range(count)]
        case "edit code":
            asked = [
                f"Repeat this Python code and rename the function to `{name}_values`, nothing else:\n{_code(name)}"
                for name in (_FUNCTIONS[index % len(_FUNCTIONS)] for index in range(count))
            ]
        case _:
            token_ids = tokenizer.encode(text)
            length = min(context_tokens, len(token_ids) // 2)
            step = (len(token_ids) - length) // max(count, 1)
            return [token_ids[step * index : step * index + length] for index in range(count)]
    return [tokenizer.encode_chat([ChatMessage(role="user", content=question)]) for question in asked]


def _code(name: str) -> str:
    return f"""```python
def {name}(values, default=None):
    \"\"\"Return what is left of the values after the empty ones are dropped.\"\"\"
    if not values:
        return default
    result = []
    for index, value in enumerate(values):
        if value is None or value == "":
            continue
        result.append((index, value))
    return {{"name": "{name}", "result": result, "length": len(result)}}
```"""
