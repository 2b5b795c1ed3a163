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
    }
    if settings.uses_sasl:
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": password_of(settings),
        }
    if settings.uses_tls:
        arguments["ssl_context"] = create_ssl_context(
            cafile=settings.ssl_ca_file, certfile=settings.ssl_certificate_file, keyfile=settings.ssl_key_file
        )
    return arguments


def password_of(settings: KafkaSettings) -> str:
    return "" if settings.sasl_password is None else settings.sasl_password.get_secret_value()
