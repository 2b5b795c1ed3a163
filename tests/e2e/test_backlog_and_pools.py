"""Work posted before there is anybody to do it, and one gateway in front of several pools."""

import asyncio
import json
from pathlib import Path

import openai
import pytest

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from shared.contracts.requests import Lane
from shared.contracts.topics import TopicNames
from tests.builders import tiny_checkpoint
from tests.fixtures.stack import READY_SECONDS, Topics

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

RECORDS = 1_000
PROMPT_IDS = [7, 30, 31, 8]


async def test_a_thousand_records_posted_while_no_worker_is_up_are_all_answered_once(tmp_path: Path) -> None:
    pool = PoolPlan(workers=0, served_model_name="null")
    async with EmbeddedStack(StackPlan(data_dir=tmp_path, pools=(pool,))) as stack:
        topics = Topics(stack.addresses.kafka)
        bodies = [{"prompt": f"record {number}", "max_tokens": 3} for number in range(RECORDS)]
        reader = await asyncio.to_thread(topics.reader)
        receipts = await asyncio.to_thread(topics.post, *bodies)
        stack.start_worker(pool)
        answers = await asyncio.to_thread(topics.answers, reader, receipts, timeout_seconds=90.0)
        reader.close()
    assert set(answers) == set(receipts)
    assert {len(results) for results in answers.values()} == {1}
    assert len({results[0].request_id for results in answers.values()}) == RECORDS
    assert all(json.loads(results[0].value)["object"] == "text_completion" for results in answers.values())


async def token_ids_without_a_tokenizer(client: openai.AsyncOpenAI, stack: EmbeddedStack) -> list[int]:
    """What the model without a tokenizer answers to token ids by HTTP; the same by Kafka; text is refused by field."""
    body = {"prompt": PROMPT_IDS, "max_tokens": 12, "temperature": 0, "return_token_ids": True}
    answer = await client.completions.create(
        model="model-of-numbers", prompt=PROMPT_IDS, max_tokens=12, temperature=0, extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].text == ""
    found: list[int] = answer.choices[0].model_dump()["token_ids"]
    with pytest.raises(openai.BadRequestError, match="no tokenizer") as refused:
        await client.completions.create(model="model-of-numbers", prompt="water", max_tokens=12)
    assert refused.value.param == "prompt"
    with pytest.raises(openai.BadRequestError, match="no tokenizer") as refused:
        await client.chat.completions.create(model="model-of-numbers", messages=[{"role": "user", "content": "a"}])
    assert refused.value.param == "messages"

    def over_kafka() -> list[int]:
        topics = Topics(stack.addresses.kafka, pool="numbers")
        reader = topics.reader()
        (results,) = topics.answers(reader, topics.post(body)).values()
        reader.close()
        token_ids: list[int] = json.loads(results[0].value)["choices"][0]["token_ids"]
        return token_ids

    assert await asyncio.to_thread(over_kafka) == found
    return found


async def test_one_gateway_serves_pools_of_several_models_one_without_a_tokenizer(tmp_path: Path) -> None:
    """The pool "numbers" has the model of "lake" without its tokenizer."""
    pools = tuple(
        PoolPlan(
            name=name,
            workers=1,
            model=tiny_checkpoint(tmp_path / "models" / name, seed=seed, num_layers=1),
            served_model_name=f"model-of-{name}",
            dtype="float32",
        )
        for name, seed in (("river", 0), ("lake", 1), ("numbers", 1))
    )
    for file in (tmp_path / "models" / "numbers").glob("tokenizer*"):
        file.unlink()
    plan = StackPlan(
        data_dir=tmp_path / "data",
        pools=pools,
        request_partitions=4,
        environment={"PENSTOCK_GATEWAY_DEFAULT_POOL": "river"},
    )
    async with EmbeddedStack(plan) as stack:
        await stack.wait_until_ready(timeout_seconds=READY_SECONDS)
        async with openai.AsyncOpenAI(base_url=f"{stack.http_url}/v1", api_key="none", max_retries=0) as client:
            assert {model.id async for model in client.models.list()} == {
                "model-of-river",
                "model-of-lake",
                "model-of-numbers",
            }
            numbers = await token_ids_without_a_tokenizer(client, stack)
            known = await client.completions.create(
                model="model-of-lake",
                prompt=PROMPT_IDS,
                max_tokens=12,
                temperature=0,
                extra_body={"return_token_ids": True},
            )
            assert known.choices[0].model_dump()["token_ids"] == numbers
            texts = {
                name: (
                    await client.completions.create(
                        model=f"model-of-{name}", prompt="water", max_tokens=12, temperature=0
                    )
                )
                for name in ("river", "lake")
            }
        assert {name: answer.model for name, answer in texts.items()} == {
            "river": "model-of-river",
            "lake": "model-of-lake",
        }
        assert texts["river"].choices[0].text != texts["lake"].choices[0].text

        def over_kafka() -> str:
            topics = Topics(stack.addresses.kafka, pool="lake")
            assert topics.requests == TopicNames().requests("lake", Lane.INTERACTIVE)
            reader = topics.reader()
            receipts = topics.post({"prompt": "water", "max_tokens": 12, "temperature": 0})
            (results,) = topics.answers(reader, receipts).values()
            reader.close()
            return str(json.loads(results[0].value)["choices"][0]["text"])

        assert await asyncio.to_thread(over_kafka) == texts["lake"].choices[0].text
