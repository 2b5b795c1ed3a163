"""`python -P -m services.supervisor`: settings from the environment, then run until SIGTERM or SIGINT."""

import os
import sys

import uvloop
from pydantic import ValidationError
from setproctitle import setproctitle

from services.supervisor.application import build_supervisor
from services.supervisor.autoscaling import InvalidBounds, parse_bounds
from services.supervisor.settings import SupervisorSettings
from shared.resilience.lifecycle import stop_signal
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from shared.settings.service_settings import UnknownSetting, reject_unknown_variables
from shared.settings.slo import SloSettings
from shared.settings.telemetry import TelemetrySettings
from shared.telemetry.setup import setup_telemetry

EXIT_BAD_SETTINGS = 2


async def run(
    settings: SupervisorSettings,
    kafka: KafkaSettings,
    redis: RedisSettings,
    telemetry: TelemetrySettings,
    slo: SloSettings,
) -> None:
    async with (
        setup_telemetry(telemetry, "supervisor", settings.name),
        stop_signal() as stopping,
        build_supervisor(settings, kafka, redis, slo=slo) as supervisor,
    ):
        await supervisor.run(stopping)


def main() -> int:
    try:
        reject_unknown_variables(
            os.environ, SupervisorSettings, KafkaSettings, RedisSettings, TelemetrySettings, SloSettings
        )
        settings = (SupervisorSettings(), KafkaSettings(), RedisSettings(), TelemetrySettings(), SloSettings())
        parse_bounds(settings[0].scaling)
    except (UnknownSetting, ValidationError, InvalidBounds) as error:
        sys.stderr.write(f"penstock supervisor: {error}\n")
        return EXIT_BAD_SETTINGS
    setproctitle(f"penstock services.supervisor {settings[0].port}")
    uvloop.run(run(*settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
