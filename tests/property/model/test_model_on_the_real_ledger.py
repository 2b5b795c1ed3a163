"""The model's ledger and the real one on Redis give the same answers on the same ways through the model.

What Redis forgets and gets back is not walked here: tests/contract/ledger/test_lost_data.py has it verb by verb.
"""

from collections import Counter

import pytest

from tests.model.replay import Replay, walk
from tests.model.world import Fault, start
from tests.property.shared.ledger.ledger_subjects import RedisSubject

pytestmark = pytest.mark.redis
EVERY_FAULT_BUT_A_LOST_REDIS = {fault: 2 for fault in Fault if fault is not Fault.REDIS}
ANSWERS = {
    "claim run", "claim held", "claim sealed", "claim finished", "claim ended", "append ok", "append fenced",
    "seal sealed", "seal fenced", "finish yes", "release yes", "orphan yes", "orphan no", "cancel requested",
    "cancel unknown", "cancel ended", "register new", "register existing",
}  # fmt: skip


async def replayed(redis_url: str, seed: int) -> Counter[str]:
    """How often each answer was given; fails at the first one that differs."""
    subject = RedisSubject(redis_url)
    await subject.open()
    said: Counter[str] = Counter()
    way: list[str] = []
    try:
        replay = Replay(subject)
        for before, move in walk(start(EVERY_FAULT_BUT_A_LOST_REDIS, by_gateway=seed % 2 == 0), seed):
            way.append(move.label)
            answer = await replay.say(before, move)
            if answer is not None and move.verb is not None:
                assert answer == move.answer, way
                said[f"{move.verb[0]} {answer[0]}"] += 1
    finally:
        await subject.close()
    return said


async def test_random_ways_through_the_model_get_the_same_answers_from_redis(redis_url: str) -> None:
    said: Counter[str] = Counter()
    for seed in range(150):
        said += await replayed(redis_url, seed)
    assert said.keys() >= ANSWERS, "every kind of answer was compared"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_more_ways_through_the_model_get_the_same_answers_from_redis(redis_url: str) -> None:
    for seed in range(1_000, 6_000):
        await replayed(redis_url, seed)
