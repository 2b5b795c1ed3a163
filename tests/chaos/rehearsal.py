"""What a model answers when nothing dies: each request once before the faults, by HTTP, not streamed."""

import time

import httpx

from tests.chaos.asks import Ask, Wanted, Way
from tests.chaos.load_mix import model_bodies
from tests.chaos.openai_shapes import result_answers

_STOP_CHARACTERS = 5


async def rehearse(url: str, model: str, seed: int) -> list[Ask]:
    """Asks with the answers they must get. The longest text is asked for once more, with a stop string out of it.

    Raises httpx.HTTPStatusError when the platform refuses one.
    """
    bodies = model_bodies(model, seed)
    async with httpx.AsyncClient(timeout=120.0) as client:
        asks = [await _answered(client, url, endpoint, body) for endpoint, body in bodies]
        single = [ask for ask in asks if len(ask.wanted.answers) == 1 and "response_format" not in ask.body]
        longest = max(single, key=lambda ask: len(ask.wanted.answers[0].text))
        text = longest.wanted.answers[0].text
        stop = text[len(text) // 2 :][:_STOP_CHARACTERS]
        asks.append(await _answered(client, url, longest.endpoint, {**longest.body, "stop": stop}))
    return asks


async def _answered(client: httpx.AsyncClient, url: str, endpoint: str, body: dict[str, object]) -> Ask:
    response = await client.post(f"{url}/v1/{endpoint}", json=body)
    response.raise_for_status()
    num_choices = body.get("n", 1)
    assert isinstance(num_choices, int)
    answers, tokens = result_answers(response.json(), num_choices)
    wanted = Wanted(answers=answers, completion_tokens=tokens)
    request_id = response.headers["x-request-id"]
    ask = Ask(name=f"rehearsed-{request_id}", way=Way.AWAIT, body=body, wanted=wanted, endpoint=endpoint)
    # It was asked and answered like any other, so it is judged like any other.
    ask.request_id, ask.said, ask.usage = request_id, answers, tokens
    ask.accepted_at = ask.ended_at = ask.asked_at = time.monotonic()
    return ask
