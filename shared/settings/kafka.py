"""Where Kafka is and how our names look there. Read by every service."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

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
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="PLAIN", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."
    )
    sasl_username: str | None = Field(default=None, description="SASL user name.")
    sasl_password: SecretStr | None = Field(default=None, description="SASL password.")
    ssl_ca_file: str | None = Field(default=None, description="CA certificates that sign the brokers'.")
    ssl_certificate_file: str | None = Field(
        default=None, description="Our certificate (PEM), where brokers ask for one."
    )
    ssl_key_file: str | None = Field(default=None, description="The private key of our certificate (PEM).")
    breaker_failures: int = Field(
        default=5, ge=1, description="Failed sends in a row after which sends are refused at once for a while."
    )
    breaker_open_ms: int = Field(
        default=1_000, ge=1, description="How long they are refused, before a few are let through to try."
    )

    @model_validator(mode="after")
    def _refuse_half_a_login(self) -> Self:
        if self.uses_sasl and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_username and sasl_password")
        if (self.ssl_certificate_file is None) != (self.ssl_key_file is None):
            raise ValueError("ssl_certificate_file and ssl_key_file belong together")
        return self

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    @property
    def topic_names(self) -> TopicNames:
        return TopicNames(prefix=self.topic_prefix, group_prefix=self.group_prefix)
