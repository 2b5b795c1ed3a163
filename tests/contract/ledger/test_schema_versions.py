"""Keys that another release has written: newer fields are left alone, a newer meaning is not touched."""

from collections.abc import AsyncIterator

import msgpack
import pytest

from shared.contracts.errors import LedgerUnavailable
from shared.contracts.events import FinishReason
from shared.contracts.identifiers import ClaimToken, Incarnation
from shared.ledger import wire
from shared.ledger.ledger import Ledger
from shared.ledger.records import Run
from shared.settings.redis import RedisSettings
from tests.contract.ledger.ledger_bench import ALICE, BOB, Bench, chunk

pytestmark = pytest.mark.redis


@pytest.fixture
async def real(redis_settings: RedisSettings) -> AsyncIterator[Bench]:
    async with Ledger(redis_settings) as ledger, Ledger(redis_settings) as another:
        await ledger.open_epoch(is_refilled=False)

        async def open_ledger() -> Ledger:
            return another

        yield Bench(open_ledger, ledger)


async def write(bench: Bench, settings: RedisSettings, *fields: str) -> None:
    """As another release would."""
    key = f"{settings.key_prefix}request:{bench.request_id}"
    await bench.ledger._connections.ask("HSET", key, *fields)


async def test_what_is_created_carries_the_version(real: Bench, redis_settings: RedisSettings) -> None:
    await real.ledger.register(real.registration(), channel=None)
    key = f"{redis_settings.key_prefix}request:{real.request_id}"
    assert await real.ledger._connections.ask("HGET", key, "schema") == b"1.1"


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
async def test_a_request_of_another_minor_is_run_to_its_end_and_its_unknown_fields_stay(
    real: Bench, redis_settings: RedisSettings, version: str
) -> None:
    await real.ledger.register(real.registration(), channel=None)
    await write(real, redis_settings, "schema", version, "mood", "cheerful")
    run = await real.claim(ALICE)
    assert isinstance(run, Run)
    await real.append(run.token, chunk(0, 7, finish=FinishReason.STOP))
    await real.ledger.seal(real.request_id, run.token, real.outcome())
    assert await real.ledger.finish(real.request_id)
    key = f"{redis_settings.key_prefix}request:{real.request_id}"
    assert await real.ledger._connections.ask("HMGET", key, "schema", "mood") == [version.encode(), b"cheerful"]


async def test_a_request_of_a_newer_major_is_refused_by_name_and_nothing_of_it_changes(
    real: Bench, redis_settings: RedisSettings
) -> None:
    run = await real.claim(ALICE)
    assert isinstance(run, Run)
    await write(real, redis_settings, "schema", "2.0")
    key = f"{redis_settings.key_prefix}request:{real.request_id}"
    before = await real.ledger._connections.ask("HGETALL", key)
    attempts = (
        real.claim(BOB),
        real.ledger.register(real.registration(), channel=None),
        real.ledger.seal(real.request_id, run.token, real.outcome()),
        real.ledger.cancel(real.request_id, reason="enough", tenant=None),
        real.ledger.release(real.request_id, run.token),
        real.ledger.orphan(real.request_id, ClaimToken(run.token)),
    )
    for attempt in attempts:
        with pytest.raises(LedgerUnavailable, match=r"in schema version 2\.0, this release knows 1\.x"):
            await attempt
    assert await real.ledger._connections.ask("HGETALL", key) == before


async def test_a_lost_worker_hands_on_what_is_understood_and_keeps_the_rest_for_a_newer_supervisor(
    real: Bench, redis_settings: RedisSettings
) -> None:
    dead = Incarnation("dead.1")
    await real.claim(dead)
    theirs = real.request_id
    ours = Bench(real.open_ledger, real.ledger)
    await ours.claim(dead)
    await write(real, redis_settings, "schema", "2.0")
    assert [request.request_id for request in await real.ledger.owned(dead)] == [ours.request_id]
    members = await real.ledger._connections.ask("SMEMBERS", f"{redis_settings.key_prefix}owned:{dead}")
    assert theirs.encode() in members


async def test_a_newer_minors_chunks_and_outcomes_are_read_without_what_it_added(real: Bench) -> None:
    (read,) = wire.decode_chunks([msgpack.packb([0, 0, [5], "a", None, None, None, {"mood": "cheerful"}])])
    assert (read.token_ids, read.text) == ((5,), "a")
    outcome = real.outcome()
    longer = msgpack.packb([*msgpack.unpackb(wire.encode_sealed(outcome)), "cheerful"])
    assert wire.decode_sealed(longer) == outcome
