"""`python -P -m services.supervisor`: settings from the environment, then run until SIGTERM or SIGINT."""

import os
import sys

import uvloop
from pydantic import ValidationError
from setproctitle import setproctitle

from services.supervisor.application import build_supervisor
from services.supervisor.settings import SupervisorSettings
from shared.resilience.lifecycle import stop_signal
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from shared.settings.service_settings import UnknownSetting, reject_unknown_variables
from shared.settings.telemetry import TelemetrySettings
from shared.telemetry.setup import setup_telemetry

EXIT_BAD_SETTINGS = 2


async def run(
    settings: SupervisorSettings, kafka: KafkaSettings, redis: RedisSettings, telemetry: TelemetrySettings
) -> None:
    async with (
        setup_telemetry(telemetry, "supervisor", settings.name),
        stop_signal() as stopping,
        build_supervisor(settings, kafka, redis) as supervisor,
    ):
        await supervisor.run(stopping)


def main() -> int:
    try:
        reject_unknown_variables(os.environ, SupervisorSettings, KafkaSettings, RedisSettings, TelemetrySettings)
        settings = (SupervisorSettings(), KafkaSettings(), RedisSettings(), TelemetrySettings())
    except (UnknownSetting, ValidationError) as error:
        sys.stderr.write(f"penstock supervisor: {error}\n")
        return EXIT_BAD_SETTINGS
    setproctitle(f"penstock services.supervisor {settings[0].port}")
    uvloop.run(run(*settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
