"""The supervisor's connections to Kafka: heartbeats in, events and copies out, records by their coordinates.

Refuses to decide anything. Entering fails with BrokerUnavailable while no broker answers; inside, the clients
reconnect by themselves.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.supervisor.dismissals import Members
from services.supervisor.reassignment import Copies, FetchRecord
from shared.contracts.fleet import FleetCommand, FleetEvent, Heartbeat
from shared.contracts.requests import Lane
from shared.contracts.topics import TopicNames
from shared.messaging.admin import cluster_id
from shared.messaging.backlog import GroupBacklog
from shared.messaging.breaker import kafka_breaker
from shared.messaging.broker import ControlBroker
from shared.messaging.group_members import GroupMembers
from shared.messaging.lookup import RecordLookup
from shared.messaging.producer import RecordProducer
from shared.resilience.clock import SystemClock
from shared.settings.kafka import KafkaSettings

LOOKUPS = 4
"""A lookup reads one record at a time, in about four round trips."""

Hear = Callable[[Heartbeat], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaEdge:
    names: TopicNames
    cluster: str
    copies: Copies
    fetch_record: FetchRecord
    members: Members
    publish_event: Callable[[FleetEvent], Awaitable[None]]
    publish_command: Callable[[FleetCommand], Awaitable[None]]
    backlog: Callable[[str], Awaitable[int]]
    """Records of a pool that no worker of its group has committed."""


OpenEdge = Callable[[Hear], AbstractAsyncContextManager[KafkaEdge]]


def kafka_edge(settings: KafkaSettings, *, client_id: str) -> OpenEdge:
    """What opens the edge: given who hears the heartbeats, a context with the edge in it."""

    @asynccontextmanager
    async def open_edge(hear: Hear) -> AsyncIterator[KafkaEdge]:
        async def listen(heartbeat: Heartbeat) -> None:
            hear(heartbeat)

        control = ControlBroker(settings, client_id=client_id)
        control.on_heartbeat(listen)
        async with (
            control,
            RecordProducer(
                settings,
                client_id=f"{client_id}-copies",
                breaker=kafka_breaker(settings, clock=SystemClock(), name="copies"),
            ) as copies,
            GroupMembers(settings) as members,
            GroupBacklog(settings, client_id=f"{client_id}-backlog") as backlog,
            AsyncExitStack() as stack,
        ):
            lookups = [
                await stack.enter_async_context(RecordLookup(settings, client_id=f"{client_id}-lookup-{number}"))
                for number in range(LOOKUPS)
            ]
            turns = itertools.cycle(lookups)
            yield KafkaEdge(
                names=settings.topic_names,
                cluster=await cluster_id(settings),
                copies=copies,
                fetch_record=lambda topic, partition, offset: next(turns).fetch(topic, partition, offset),
                members=members,
                publish_event=control.publish_event,
                publish_command=control.publish_command,
                backlog=lambda pool: _backlog(backlog, settings.topic_names, pool),
            )

    return open_edge


async def _backlog(backlog: GroupBacklog, names: TopicNames, pool: str) -> int:
    topics = [names.requests(pool, lane) for lane in Lane]
    return await backlog.records(names.worker_group(pool), [*topics, names.resume(pool), *names.retries(pool)])
