"""The supervisor on a real Redis and a real Kafka."""

import asyncio

import httpx
import pytest

from shared.contracts import headers
from shared.contracts.fleet import FleetEventKind, WorkerState
from shared.contracts.requests import Lane
from shared.messaging.group_members import GroupMembers
from shared.messaging.source import RequestSource
from shared.openai.envelope import read_envelope
from tests.integration.services.supervisor.conftest import POOL, Installation, until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

FOREIGN = (("x-trace", b"\xff\xfe"), ("x-null", None), (headers.TENANT, b"acme"))


async def test_a_dead_workers_request_appears_once_on_the_resume_topic_and_reads_as_the_original(
    installation: Installation,
) -> None:
    record = await installation.post(headers=FOREIGN)
    worker = installation.worker()
    await worker.claim(record)
    supervisor = await installation.supervise()
    await worker.beat()
    await until(lambda: supervisor.watch.view.members, "the heartbeat is heard")
    assert await installation.resumed() == [], "a living worker keeps its requests"

    await worker.die()

    copies = await until(installation.resumed, "the copy is there")
    original = read_envelope(record, names=installation.kafka.topic_names, pool=POOL, cluster=installation.cluster)
    copied = read_envelope(copies[0], names=installation.kafka.topic_names, pool=POOL, cluster=installation.cluster)
    assert copies[0].key == original.request_id.encode()
    assert copies[0].value == record.value
    assert copied.request_id == original.request_id
    assert copied.coordinates == original.coordinates
    assert (copied.lane, copied.tenant, copied.key) == (original.lane, "acme", b"k")
    assert ("x-trace", b"\xff\xfe") in copies[0].headers
    assert ("x-null", None) in copies[0].headers
    await until(lambda: installation.told(FleetEventKind.REQUESTS_REASSIGNED), "it is told")
    # Several more looks at the ledger: nothing else may be copied.
    looked_at = supervisor._looked_at
    await until(lambda: supervisor._looked_at > looked_at + 0.6, "three more looks")
    assert len(await installation.resumed()) == 1


async def test_a_lease_that_runs_out_by_itself_leads_to_a_copy_within_three_seconds(
    installation: Installation,
) -> None:
    supervisor = await installation.supervise()
    record = await installation.post()
    worker = installation.worker()
    await worker.claim(record)
    claimed_at = asyncio.get_running_loop().time()
    await until(installation.resumed, "the copy is there")
    took = asyncio.get_running_loop().time() - claimed_at
    assert 1.0 < took < 3.0, f"lease 1.2 s and about half a second for the rest, not {took:.2f} s"
    assert supervisor.leadership.is_leader


async def test_the_copy_can_be_claimed_by_another_worker_and_the_dead_one_is_fenced(
    installation: Installation,
) -> None:
    record = await installation.post()
    dead, heir = installation.worker("dead"), installation.worker("heir")
    first = await dead.claim(record)
    await installation.supervise()
    await dead.die()
    copies = await until(installation.resumed, "the copy is there")
    second = await heir.claim(copies[0])
    assert second.token != first.token
    assert (second.attempt, second.lost_claims) == (2, 1)
    assert not await installation.ledger.release(
        read_envelope(record, names=installation.kafka.topic_names, pool=POOL, cluster=installation.cluster).request_id,
        first.token,
    )


async def test_forty_requests_of_one_worker_are_all_handed_on(installation: Installation) -> None:
    worker = installation.worker()
    for _ in range(40):
        await worker.claim(await installation.post())
    await installation.supervise()
    await worker.die()
    copies = await until(lambda: _at_least(installation, 40), "forty copies")
    assert len({copy.key for copy in copies}) == 40


async def _at_least(installation: Installation, count: int) -> list[object]:
    copies = await installation.resumed()
    return copies if len(copies) >= count else []


async def test_of_two_supervisors_one_acts_and_the_other_takes_over_when_it_stops(
    installation: Installation,
) -> None:
    first = await installation.supervise(name="first")
    await until(lambda: first.leadership.is_leader, "the first leads")
    second = await installation.supervise(name="second")
    worker = installation.worker()
    await worker.claim(await installation.post())
    await worker.beat()
    await until(lambda: first.watch.view.members and second.watch.view.members, "both hear the worker")
    assert not second.leadership.is_leader
    await worker.die()
    await until(installation.resumed, "the copy is there")
    await until(lambda: installation.told(FleetEventKind.WORKER_LOST), "the loss is told")
    installation.stop(first)
    await until(lambda: second.leadership.is_leader, "the second leads")
    heir = installation.worker("heir")
    await heir.claim(await installation.post())
    await heir.die()
    await until(lambda: _at_least(installation, 2), "the second hands on as well")
    assert len(installation.told(FleetEventKind.WORKER_LOST)) == 1, "only the leader tells"
    await until(
        lambda: "second" in [event.worker_id for event in installation.told(FleetEventKind.SUPERVISOR_ELECTED)],
        "the second's election is told",
    )


async def test_the_fleet_page_shows_a_workers_whole_life(installation: Installation, http: httpx.AsyncClient) -> None:
    supervisor = await installation.supervise()
    worker = installation.worker("w-7")
    await worker.beat(WorkerState.STARTING)
    await worker.beat(WorkerState.READY)

    async def in_state(state: str) -> dict[str, object] | None:
        fleet = (await http.get(f"{supervisor.address}/fleet")).json()
        return next((found for found in fleet["workers"] if found["state"] == state), None)

    shown = await until(lambda: in_state("ready"), "the worker is shown ready")
    assert shown["worker_id"] == "w-7"
    assert shown["kv_blocks_free"] == 9
    assert shown["partitions"] == [["t", 0]]
    assert 0 <= shown["age_seconds"] < 20
    await worker.beat(WorkerState.STOPPED)
    await until(lambda: in_state("stopped"), "the worker is shown stopped")
    wanted = {FleetEventKind.WORKER_JOINED, FleetEventKind.WORKER_READY, FleetEventKind.WORKER_LEFT}
    await until(lambda: wanted <= {event.kind for event in installation.events}, "all of it is told")

    async def counted() -> bool:
        metrics = (await http.get(f"{supervisor.address}/metrics")).text
        return f'penstock_workers{{pool="{POOL}",state="stopped"}} 1.0' in metrics

    await until(counted, "the stopped worker is counted")
    assert (await http.get(f"{supervisor.address}/livez")).status_code == 200
    assert (await http.get(f"{supervisor.address}/readyz")).json() == {"ready": True, "problems": []}


async def test_a_dead_worker_s_partitions_move_long_before_kafka_s_session_ends(installation: Installation) -> None:
    supervisor = await installation.supervise()
    worker = installation.worker()
    await installation.ledger.refresh_lease(worker.incarnation)
    await worker.beat()
    await until(lambda: supervisor.watch.view.members, "the heartbeat is heard")
    group = installation.kafka.topic_names.worker_group(POOL)
    topic = installation.kafka.topic_names.requests(POOL, Lane.INTERACTIVE)
    source = RequestSource(installation.kafka, group=group, topics=[topic], client_id=worker.incarnation, high_mark=10)
    async with GroupMembers(installation.kafka) as members, source, asyncio.TaskGroup() as tasks:
        polling = tasks.create_task(source.run(lambda delivery: None))
        await until(lambda: source.assignment, "assigned")
        (member,) = await members.of(group)
        assert member.client_id == worker.incarnation
        await worker.die()
        died_at = asyncio.get_running_loop().time()

        async def is_out() -> bool:
            return member not in await members.of(group)

        await until(is_out, "it was dismissed")
        assert asyncio.get_running_loop().time() - died_at < installation.kafka.session_timeout_ms / 2_000
        polling.cancel()
