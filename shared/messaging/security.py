"""FastStream's words for the security settings; `connection.py` has aiokafka's."""

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.messaging.connection import connection_arguments
from shared.settings.kafka import KafkaSettings

_MECHANISMS = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


def security_of(settings: KafkaSettings) -> BaseSecurity:
    arguments = connection_arguments(settings)
    context, uses_ssl = arguments.get("ssl_context"), settings.security_protocol.endswith("SSL")
    if not settings.security_protocol.startswith("SASL"):
        return BaseSecurity(ssl_context=context, use_ssl=uses_ssl)
    return _MECHANISMS[settings.sasl_mechanism](
        username=settings.sasl_username or "",
        password=settings.sasl_password or "",
        ssl_context=context,
        use_ssl=uses_ssl,
    )
