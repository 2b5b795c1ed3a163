"""How many records wait in Kafka for one member of a group."""

from collections import Counter
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from shared.contracts.errors import BrokerUnavailable


async def waiting_records(
    consumer: AIOKafkaConsumer,
    partitions: Sequence[TopicPartition],
    position: Callable[[TopicPartition], int | None],
) -> Counter[str]:
    """Records per topic; `position` is the next offset to be read, None where nothing was read or committed yet."""
    unread = [partition for partition in partitions if position(partition) is None]
    try:
        ends = await consumer.end_offsets(partitions) if partitions else {}
        begins = await consumer.beginning_offsets(unread) if unread else {}
    except (KafkaError, IllegalStateError) as error:
        raise BrokerUnavailable("Kafka does not say how many records wait") from error
    waiting: Counter[str] = Counter()
    for partition, end in ends.items():
        at = position(partition)
        waiting[partition.topic] += max(0, end - (begins.get(partition, end) if at is None else at))
    return waiting
