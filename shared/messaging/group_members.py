"""Who is in a consumer group, and how to say goodbye for somebody who died in it.

Kafka gives a killed consumer its whole session timeout before anybody else gets its partitions, and lets a joining
one wait for it. Any client may send the leave request of another member; it is the caller's business to be sure. A
member that was alive after all is told `UnknownMember` at its next heartbeat and joins anew.
"""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, UnknownMemberIdError, for_code
from aiokafka.protocol.group import LeaveGroupRequest

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.admin import admin_client
from shared.settings.kafka import KafkaSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    member_id: str
    client_id: str


class GroupMembers:
    """`async with`; every method raises BrokerUnavailable."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._exit = AsyncExitStack()
        self._client: AIOKafkaAdminClient | None = None

    async def __aenter__(self) -> Self:
        self._client = await self._exit.enter_async_context(admin_client(self._settings, timeout_seconds=5.0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def of(self, group: str) -> list[GroupMember]:
        assert self._client is not None
        try:
            (answer,) = await self._client.describe_consumer_groups([group])
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"cannot look at group {group}: {error!r}") from error
        return [
            GroupMember(member_id=member[0], client_id=member[1])
            for found in answer.groups
            for member in found[5]
            if not found[0]
        ]

    async def dismiss(self, group: str, member: GroupMember) -> bool:
        """Leave in its name. False: it is not in the group (any more)."""
        assert self._client is not None
        try:
            coordinator = await self._client.find_coordinator(group)
            answer = await self._client._send_request(LeaveGroupRequest(group, member.member_id), coordinator)
            if answer.error_code == UnknownMemberIdError.errno:
                return False
            if answer.error_code:
                raise for_code(answer.error_code)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"cannot dismiss {member.client_id} from {group}: {error!r}") from error
        return True
