"""Where Kafka is and how our names look there. Read by every service."""

from pydantic import Field

from shared.contracts.topics import TopicNames
from shared.settings.service_settings import ScopedSettings, scoped


class KafkaSettings(ScopedSettings):
    """`PENSTOCK_KAFKA_*`."""

    model_config = scoped("KAFKA")

    bootstrap_servers: str = Field(default="127.0.0.1:9092", description="Comma-separated host:port list.")
    topic_prefix: str = Field(default="", description="Put before every topic name.")
    group_prefix: str = Field(default="", description="Put before every consumer group name.")
    cluster: str = Field(default="", description="Name of the cluster in derived ids; empty: the cluster's own id.")
    request_partitions: int = Field(default=24, ge=1, le=1000, description="Partitions of each request topic.")
    replication_factor: int = Field(default=1, ge=1, description="Replication factor of topics we create.")
    max_message_bytes: int = Field(default=4_194_304, ge=65_536, description="Largest record we accept or send.")
    session_timeout_ms: int = Field(default=10_000, ge=6_000, description="A silent consumer loses its partitions.")
    security_protocol: str = Field(default="PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")
    sasl_mechanism: str = Field(default="PLAIN", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.")
    sasl_username: str | None = Field(default=None, description="SASL user name.")
    sasl_password: str | None = Field(default=None, description="SASL password.")
    ssl_ca_file: str | None = Field(default=None, description="CA certificates that sign the brokers'.")
    breaker_failures: int = Field(
        default=5, ge=1, description="Failed sends in a row after which sends are refused at once for a while."
    )
    breaker_open_ms: int = Field(
        default=1_000, ge=1, description="How long they are refused, before a few are let through to try."
    )

    @property
    def topic_names(self) -> TopicNames:
        return TopicNames(prefix=self.topic_prefix, group_prefix=self.group_prefix)
