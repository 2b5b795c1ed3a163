"""How many records a consumer group has not committed yet, asked from outside the group. Knows topics and numbers only.

Workers tell their own lag; this is for pools whose last worker is gone.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.admin import admin_client
from shared.messaging.connection import connection_arguments
from shared.settings.kafka import KafkaSettings


class GroupBacklog:
    """`async with`; `records` raises BrokerUnavailable."""

    def __init__(self, settings: KafkaSettings, *, client_id: str) -> None:
        self._settings = settings
        self._exit = AsyncExitStack()
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer = AIOKafkaConsumer(
            client_id=client_id, enable_auto_commit=False, **connection_arguments(settings)
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._admin = await stack.enter_async_context(admin_client(self._settings, timeout_seconds=5.0))
            try:
                await self._consumer.start()
            except (KafkaError, OSError) as error:
                await self._consumer.stop()
                raise BrokerUnavailable("no broker answers") from error
            stack.push_async_callback(self._consumer.stop)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def records(self, group: str, topics: Sequence[str]) -> int:
        assert self._admin is not None
        try:
            partitions = [
                TopicPartition(topic["topic"], partition["partition"])
                for topic in await self._admin.describe_topics(list(topics))
                for partition in topic["partitions"]
            ]
            committed = await self._admin.list_consumer_group_offsets(group, partitions=partitions)
            ends = await self._consumer.end_offsets(partitions)
            begins = await self._consumer.beginning_offsets(partitions)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"cannot look at the backlog of {group}: {error!r}") from error
        return sum(
            max(0, ends[where] - (found.offset if (found := committed.get(where)) and found.offset >= 0 else begin))
            for where, begin in begins.items()
        )
