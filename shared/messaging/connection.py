"""How every aiokafka client of the platform is connected: addresses and security from the settings, nothing else."""

from typing import Any

from aiokafka.helpers import create_ssl_context

from shared.messaging import lenient_headers
from shared.settings.kafka import KafkaSettings


def connection_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments that producers, consumers and admin clients of aiokafka have in common."""
    lenient_headers.install()
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": settings.sasl_password,
    }
    if settings.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = create_ssl_context(cafile=settings.ssl_ca_file)
    return arguments
