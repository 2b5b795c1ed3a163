"""What every codec needs of protobuf: deterministic bytes, refusals that name the message, enumerations by name."""

from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from shared.contracts.errors import PoisonMessage

MessageType = TypeVar("MessageType", bound=Message)

_UNSPECIFIED = 0


class EnumTable:
    """Members of one of our enumerations and their numbers on the wire, matched by name."""

    def __init__(self, members: type[StrEnum], wire: Any, prefix: str) -> None:
        self._name = wire.DESCRIPTOR.name
        self._numbers = {member: wire.Value(f"{prefix}_{member.name}") for member in members}
        self._members = {number: member for member, number in self._numbers.items()}

    def number(self, member: StrEnum | None) -> Any:
        return _UNSPECIFIED if member is None else self._numbers[member]

    def optional_member(self, number: int) -> Any:
        return None if number == _UNSPECIFIED else self.member(number)

    def member(self, number: int) -> Any:
        member = self._members.get(number)
        if member is None:
            raise PoisonMessage(f"{number} is no {self._name}")
        return member


def encoded(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def parsed(message: MessageType, value: bytes | None) -> MessageType:
    name = message.DESCRIPTOR.name
    if value is None:
        raise PoisonMessage(f"the record has no value where a protobuf {name} was expected")
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise PoisonMessage(f"the value is no protobuf {name}") from error
    return message


def optional(message: Any, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None
