"""FastStream's words for the security settings; `connection.py` has aiokafka's."""

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.messaging.connection import connection_arguments, password_of
from shared.settings.kafka import KafkaSettings

_MECHANISMS = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


def security_of(settings: KafkaSettings) -> BaseSecurity:
    context = connection_arguments(settings).get("ssl_context")
    if not settings.uses_sasl:
        return BaseSecurity(ssl_context=context, use_ssl=settings.uses_tls)
    return _MECHANISMS[settings.sasl_mechanism](
        username=settings.sasl_username or "",
        password=password_of(settings),
        ssl_context=context,
        use_ssl=settings.uses_tls,
    )
