"""What is asked in a chaos run: pure functions of a random generator. Imports nothing of the platform.

For the null engine every answer is worked out beforehand by its published rule; for a model, by a rehearsal.
"""

import random
from collections.abc import Sequence

from tests.chaos.asks import Answer, Ask, Early, Wanted, Way
from tests.chaos.expected_text import chat_prompt, expected_text, seed_of_choice

CHAT, COMPLETIONS = "chat/completions", "completions"
_WAYS = (Way.STREAM,) * 9 + (Way.AWAIT,) * 2 + (Way.KAFKA,) * 4 + (Way.KAFKA_TWICE,) * 2 + (Way.KAFKA_NAMELESS,) * 2
_CONTENTS = ("question", "Ünïcode 東京 🙂", "naïve café")
_EARLY_SHARE, _STOP_SHARE, _ORDERED_SHARE = 0.2, 0.25, 0.6
NULL_STEP_MS = 40
"""What the null engine is told to take for a token."""


def null_wanted(prompt: str, *, seed: int, num_tokens: int, num_choices: int = 1, stop: str | None = None) -> Wanted:
    """A token of the null engine is one letter; a stop string is cut off, its tokens are counted."""
    answers, used = [], 0
    for index in range(num_choices):
        whole = expected_text(prompt, seed=seed_of_choice(seed, index), num_tokens=num_tokens)
        at = -1 if stop is None else whole.find(stop)
        if at < 0:
            answers.append(Answer(whole, "length"))
            used += num_tokens
        else:
            answers.append(Answer(whole[:at], "stop"))
            used += at + len(stop or "")
    return Wanted(answers=answers, completion_tokens=used)


def null_ask(
    name: str,
    way: Way,
    content: str,
    *,
    seed: int,
    num_tokens: int,
    num_choices: int = 1,
    stop_at: int | None = None,
    endpoint: str = CHAT,
) -> Ask:
    """`stop_at`: end the first choice there, by the letters that stand there as its stop string."""
    prompt = chat_prompt(content) if endpoint == CHAT else content
    stop = None
    if stop_at is not None:
        stop = expected_text(prompt, seed=seed, num_tokens=num_tokens)[stop_at : stop_at + 8]
    body: dict[str, object] = {"model": "null", "seed": seed, "max_tokens": num_tokens, "n": num_choices}
    body |= {"messages": [{"role": "user", "content": content}]} if endpoint == CHAT else {"prompt": content}
    body |= {} if stop is None else {"stop": stop}
    wanted = null_wanted(prompt, seed=seed, num_tokens=num_tokens, num_choices=num_choices, stop=stop)
    return Ask(name=name, way=way, body=body, wanted=wanted, endpoint=endpoint)


def next_null_ask(rng: random.Random, number: int) -> Ask:
    way, num_tokens = rng.choice(_WAYS), rng.randrange(40, 220)
    ask = null_ask(
        f"ask-{number}",
        way,
        f"{rng.choice(_CONTENTS)} {number} " + "x" * rng.randrange(60),
        seed=rng.randrange(1 << 60),
        num_tokens=num_tokens,
        num_choices=rng.choice((1, 1, 1, 2, 3)),
        stop_at=rng.randrange(20, num_tokens - 10) if rng.random() < _STOP_SHARE else None,
        endpoint=rng.choice((CHAT, CHAT, COMPLETIONS)),
    )
    ask = _with_manners(ask, rng)
    if way is Way.KAFKA and rng.random() < _ORDERED_SHARE:
        return _ordered(ask, rng)
    return ask


def _ordered(ask: Ask, rng: random.Random) -> Ask:
    """The same record, one choice and shorter, so that a line of them moves on; one of its key after another."""
    num_tokens = rng.randrange(30, 70)
    content = f"in order {ask.name}"
    ordered = null_ask(ask.name, ask.way, content, seed=rng.randrange(1 << 60), num_tokens=num_tokens)
    ordered.lane = ask.lane
    ordered.ordered_key = f"{ask.lane}-{rng.randrange(3)}"
    ordered.least_seconds = num_tokens * NULL_STEP_MS / 1_000
    return ordered


def next_queued_ask(rng: random.Random, number: int) -> Ask:
    """Records that want their order, of so few keys that most of them wait in a worker, unclaimed, for their turn."""
    ask = null_ask(f"ask-{number}", Way.KAFKA, "", seed=0, num_tokens=1)
    ask.lane = rng.choice(("interactive", "bulk"))
    return _ordered(ask, rng)


def next_rehearsed_ask(rng: random.Random, number: int, rehearsed: Sequence[Ask]) -> Ask:
    """One of the asks whose answers are known from the rehearsal, in any way."""
    known = rng.choice(rehearsed)
    ask = Ask(
        name=f"ask-{number}", way=rng.choice(_WAYS), body=known.body, wanted=known.wanted, endpoint=known.endpoint
    )
    return _with_manners(ask, rng)


def _with_manners(ask: Ask, rng: random.Random) -> Ask:
    """The lane, and for some streams an end before the last token."""
    if ask.way not in (Way.STREAM, Way.AWAIT) and rng.random() < 0.3:
        ask.lane = "bulk"
    if ask.way is Way.STREAM and rng.random() < _EARLY_SHARE:
        ask.early = rng.choice(list(Early))
        ask.early_after_seconds = rng.uniform(0.0, 6.0)
    return ask


_PLACE = {
    "type": "object",
    "properties": {
        "city": {"enum": ["東京", "Zürich", "Straße"]},
        "gates": {"type": "array", "items": {"enum": ["open", "shut"]}, "minItems": 8, "maxItems": 20},
    },
    "required": ["city", "gates"],
    "additionalProperties": False,
}
_TOOL = {"type": "function", "function": {"name": "set_gates", "parameters": _PLACE, "strict": True}}


def model_bodies(model: str, seed: int) -> list[tuple[str, dict[str, object]]]:
    """Endpoint and body of what is rehearsed with a model: every feature whose state must survive a failover."""
    rng = random.Random(seed)

    def chat(content: str, **more: object) -> tuple[str, dict[str, object]]:
        messages = [{"role": "user", "content": content}]
        return CHAT, {"model": model, "messages": messages, "seed": rng.randrange(1 << 60), "max_tokens": 160, **more}

    free = {"temperature": 0.8, "ignore_eos": True}
    schema = {"type": "json_schema", "json_schema": {"name": "place", "schema": _PLACE, "strict": True}}
    return [
        chat("東京 🙂 Straße", **free),
        chat("naïve café", **free, n=2),
        chat("numbers", **free, logprobs=True, top_logprobs=2),
        chat("three of them", **free, n=3, logprobs=True),
        chat("greedy", temperature=0.0, ignore_eos=True),
        chat("where", temperature=0.8, response_format=schema),
        chat("where twice", temperature=0.8, response_format=schema, n=2),
        chat("gates", temperature=0.8, tools=[_TOOL], tool_choice="required"),
        (COMPLETIONS, {"model": model, "prompt": "Events flow", "seed": 5, "max_tokens": 200, **free}),
        (COMPLETIONS, {"model": model, "prompt": "A penstock", "seed": 6, "max_tokens": 120, "logprobs": 1, **free}),
    ]
