"""A real Kafka that asks for a login, for TLS, for a certificate of ours: every kind of client gets in, or is told why.

The broker has a plain listener beside the guarded ones, so that it starts, and users are made, as everywhere else.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from services.cli.embedded.kafka import EmbeddedKafka
from services.cli.embedded.ports import free_port
from shared.contracts.errors import BrokerUnavailable
from shared.contracts.fleet import FleetCommand, FleetCommandKind
from shared.contracts.identifiers import WorkerId
from shared.contracts.topics import TopicSpecification
from shared.messaging.admin import ensure_topics, plan_topics
from shared.messaging.broker import control_broker
from shared.messaging.lookup import fetch_record
from shared.messaging.producer import RecordProducer
from shared.settings.kafka import KafkaSettings
from tests.fixtures.kafka_harness import until

pytestmark = pytest.mark.kafka

USER, PASSWORD = "penstock", "turbine-7"
_PLAIN_LOGIN = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'user_{USER}="{PASSWORD}" username="{USER}" password="{PASSWORD}";'
)
_SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class GuardedKafka(EmbeddedKafka):
    """The embedded broker with three more listeners: login in the clear, login under TLS, certificates only."""

    def __init__(self, directory: Path, authority: trustme.CA) -> None:
        super().__init__(directory, port=free_port())
        self.ports = {"SASL_PLAINTEXT": free_port(), "SASL_SSL": free_port(), "SSL": free_port()}
        directory.mkdir(parents=True, exist_ok=True)
        self._identity, self._trust = directory / "broker.pem", directory / "authority.pem"
        self._identity.write_bytes(_identity(authority.issue_cert("127.0.0.1", "localhost")))
        authority.cert_pem.write_to_path(str(self._trust))

    def _properties(self, controller_port: int) -> dict[str, str]:
        plain = super()._properties(controller_port)
        guarded = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        tls = {
            f"listener.name.{name}.{option}": value
            for name in ("sasl_ssl", "ssl")
            for option, value in {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(self._identity),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self._trust),
            }.items()
        }
        logins = {
            f"listener.name.{name}.{mechanism}.sasl.jaas.config": login
            for name in ("sasl_plaintext", "sasl_ssl")
            for mechanism, login in {
                "plain": _PLAIN_LOGIN,
                "scram-sha-256": _SCRAM_LOGIN,
                "scram-sha-512": _SCRAM_LOGIN,
            }.items()
        }
        return {
            **plain,
            "listeners": f"{plain['listeners']},{guarded}",
            "advertised.listeners": f"{plain['advertised.listeners']},{guarded}",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL"
            ),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.ssl.ssl.client.auth": "required",
            **tls,
            **logins,
        }


def _identity(leaf: trustme.LeafCert) -> bytes:
    """Key and certificates in one PEM; Java reads a key as PKCS 8 only."""
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return b"".join([key_pem, *(pem.bytes() for pem in leaf.cert_chain_pems)])


@dataclass
class Guarded:
    kafka: GuardedKafka
    directory: Path

    def settings(self, protocol: Any, **changes: Any) -> KafkaSettings:
        return KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{self.kafka.ports[protocol]}", security_protocol=protocol, **changes
        )

    @property
    def authority_file(self) -> str:
        return str(self.directory / "authority.pem")

    @property
    def client_files(self) -> dict[str, str]:
        return {
            "ssl_certificate_file": str(self.directory / "client.crt"),
            "ssl_key_file": str(self.directory / "client.key"),
        }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded-kafka")
    authority = trustme.CA()
    client = authority.issue_cert("worker@penstock.test")
    client.cert_chain_pems[0].write_to_path(str(directory / "client.crt"))
    client.private_key_pem.write_to_path(str(directory / "client.key"))
    with GuardedKafka(directory, authority) as kafka:
        _make_users(kafka.bootstrap_servers)
        yield Guarded(kafka, directory)


def _make_users(bootstrap: str) -> None:
    """One mechanism a request: a user cannot be changed twice in one."""
    client = AdminClient({"bootstrap.servers": bootstrap})
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        user = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4_096), PASSWORD.encode())
        client.alter_user_scram_credentials([user])[USER].result(timeout=20)


LOGIN = {"sasl_username": USER, "sasl_password": PASSWORD}
WAYS_IN: list[tuple[str, str, dict[str, str]]] = [
    *(("SASL_SSL", mechanism, LOGIN) for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
    ("SASL_PLAINTEXT", "SCRAM-SHA-256", LOGIN),
    ("SSL", "PLAIN", {}),
]


@pytest.mark.parametrize(("protocol", "mechanism", "login"), WAYS_IN)
async def test_every_kind_of_client_gets_in(
    guarded: Guarded, protocol: str, mechanism: str, login: dict[str, str]
) -> None:
    files = {"ssl_ca_file": guarded.authority_file} | (guarded.client_files if protocol == "SSL" else {})
    settings = guarded.settings(
        protocol, sasl_mechanism=mechanism, topic_prefix=f"{protocol}.{mechanism}.", **login, **files
    )
    topics = [
        TopicSpecification(name=name, partitions=1, purpose="a test")
        for name in (settings.topic_names.results, settings.topic_names.commands)
    ]
    await ensure_topics(settings, topics)
    async with RecordProducer(settings, client_id="test") as producer:
        await producer.send(settings.topic_names.results, key=b"k", value=b"v", headers=())
    record = await fetch_record(settings, settings.topic_names.results, 0, 0)
    assert record is not None
    assert record.value == b"v"
    await _hear_a_command(settings)


async def _hear_a_command(settings: KafkaSettings) -> None:
    """Over FastStream, whose words for the same login are its own."""
    heard: list[FleetCommand] = []

    async def hear(command: FleetCommand) -> None:
        heard.append(command)

    broker = control_broker(settings, client_id="test")
    broker.on_command(hear)
    async with broker:
        for number in range(100):
            command = FleetCommand(
                kind=FleetCommandKind.DRAIN, worker_id=WorkerId("w"), issued_at_ms=number, reason="test"
            )
            await broker.publish_command(command)
            if heard:
                break
            await asyncio.sleep(0.1)
        await until(lambda: heard, what="a command over a guarded connection")


@pytest.mark.parametrize(
    ("protocol", "changes"),
    [
        ("SASL_SSL", {"sasl_username": USER, "sasl_password": "wrong", "ssl_ca_file": "AUTHORITY"}),
        ("SASL_SSL", {"sasl_username": USER, "sasl_password": PASSWORD}),
        ("SSL", {"ssl_ca_file": "AUTHORITY"}),
    ],
    ids=["wrong password", "unknown authority", "no certificate of ours"],
)
async def test_who_may_not_in_is_told_which_broker_refused(
    guarded: Guarded, protocol: str, changes: dict[str, str]
) -> None:
    files = {"ssl_ca_file": guarded.authority_file} if "ssl_ca_file" in changes else {}
    settings = guarded.settings(protocol, **(changes | files))
    with pytest.raises(BrokerUnavailable, match=settings.bootstrap_servers):
        await plan_topics(settings, [])
