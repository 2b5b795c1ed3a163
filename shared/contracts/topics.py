"""The one place where topic and group names are built, and what each topic needs of the cluster."""

from dataclasses import dataclass, field

from shared.contracts.requests import Lane

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
RETRY_DELAYS_SECONDS = (1, 4, 16)
"""The delay topics: after the first failure at most the first of them, and so on; the last one for all that follow."""
_MOST_RETRY_PARTITIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpecification:
    """A topic as it should exist. `configs` are Kafka topic configurations."""

    name: str
    partitions: int
    purpose: str
    configs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicNames:
    """Builds every name from one prefix, so that several installations share a cluster."""

    prefix: str = ""
    group_prefix: str = ""

    def requests(self, pool: str, lane: Lane) -> str:
        return f"{self.prefix}inference.requests.{pool}.{lane.value}"

    def resume(self, pool: str) -> str:
        return f"{self.prefix}inference.requests.{pool}.resume"

    def retry(self, pool: str, delay_seconds: int) -> str:
        return f"{self.prefix}inference.requests.{pool}.retry.{delay_seconds}s"

    def retries(self, pool: str) -> tuple[str, ...]:
        """Every delay topic of the pool, the shortest delay first."""
        return tuple(self.retry(pool, seconds) for seconds in RETRY_DELAYS_SECONDS)

    def holds_copies(self, pool: str, topic: str) -> bool:
        """Whether records of `topic` are copies written by the platform, whose copy headers are believed."""
        return topic == self.resume(pool) or topic in self.retries(pool)

    @property
    def results(self) -> str:
        return f"{self.prefix}inference.results"

    @property
    def cancellations(self) -> str:
        return f"{self.prefix}inference.cancellations"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}inference.dead-letters"

    @property
    def api_keys(self) -> str:
        return f"{self.prefix}platform.api-keys"

    @property
    def heartbeats(self) -> str:
        return f"{self.prefix}fleet.heartbeats"

    @property
    def commands(self) -> str:
        return f"{self.prefix}fleet.commands"

    @property
    def events(self) -> str:
        return f"{self.prefix}fleet.events"

    def worker_group(self, pool: str) -> str:
        return f"{self.group_prefix}penstock-workers-{pool}"

    @property
    def cancellation_group(self) -> str:
        return f"{self.group_prefix}penstock-cancellations"


def topic_specifications(
    names: TopicNames,
    *,
    pools: tuple[str, ...],
    request_partitions: int = 24,
    max_message_bytes: int = 4_194_304,
) -> list[TopicSpecification]:
    """Every topic of an installation that serves `pools`."""
    limits = {"max.message.bytes": str(max_message_bytes)}
    day = {"retention.ms": str(_DAY_MS), **limits}
    week = {"retention.ms": str(7 * _DAY_MS), "cleanup.policy": "delete", **limits}
    hour = {"retention.ms": str(_HOUR_MS)}
    per_pool = [
        specification
        for pool in pools
        for specification in (
            TopicSpecification(
                name=names.requests(pool, Lane.INTERACTIVE),
                partitions=request_partitions,
                purpose="requests somebody waits for",
                configs=week,
            ),
            TopicSpecification(
                name=names.requests(pool, Lane.BULK),
                partitions=request_partitions,
                purpose="requests that may wait for hours",
                configs=week,
            ),
            TopicSpecification(
                name=names.resume(pool),
                partitions=request_partitions,
                purpose="requests that lost their worker; polled first",
                configs=day,
            ),
            *(
                TopicSpecification(
                    name=names.retry(pool, seconds),
                    partitions=min(request_partitions, _MOST_RETRY_PARTITIONS),
                    purpose=f"requests to be tried again, {seconds} s after their failure at the latest",
                    configs=day,
                )
                for seconds in RETRY_DELAYS_SECONDS
            ),
        )
    ]
    return [
        *per_pool,
        TopicSpecification(
            name=names.results,
            partitions=request_partitions,
            purpose="one terminal event per request; the first record of an id is the truth",
            configs=week,
        ),
        TopicSpecification(name=names.cancellations, partitions=3, purpose="ids to cancel", configs=day),
        TopicSpecification(
            name=names.dead_letters,
            partitions=3,
            purpose="records nobody could work on, unchanged",
            configs=week,
        ),
        TopicSpecification(
            name=names.api_keys,
            partitions=1,
            purpose="digests of API keys, whose they are and what they may",
            configs={"cleanup.policy": "compact"},
        ),
        TopicSpecification(name=names.heartbeats, partitions=1, purpose="workers' state, every 500 ms", configs=hour),
        TopicSpecification(name=names.commands, partitions=1, purpose="drain, resume, quarantine", configs=hour),
        TopicSpecification(name=names.events, partitions=1, purpose="what happened to the fleet", configs=day),
    ]
