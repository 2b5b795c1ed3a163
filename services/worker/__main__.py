"""`python -P -m services.worker`: reads the environment, sets up telemetry, runs one worker."""

import os
import sys

import uvloop
from pydantic import ValidationError
from setproctitle import setproctitle

from services.worker.application import build_worker
from services.worker.engine_client import EngineHopeless
from services.worker.settings import WorkerSettings
from shared.contracts.errors import PlatformError
from shared.resilience.garbage_collection import calm_garbage_collector
from shared.resilience.lifecycle import stop_signal
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from shared.settings.service_settings import UnknownSetting, reject_unknown_variables
from shared.settings.slo import SloSettings
from shared.settings.telemetry import TelemetrySettings
from shared.telemetry.setup import setup_telemetry
from shared.tokenization.tokenizer_error import TokenizerError

_EXIT_BAD_SETTINGS = 2


async def run(
    settings: WorkerSettings,
    kafka: KafkaSettings,
    redis: RedisSettings,
    telemetry: TelemetrySettings,
    slo: SloSettings,
) -> int:
    async with (
        setup_telemetry(telemetry, "worker", settings.name or None),
        stop_signal() as stopping,
        build_worker(settings, kafka, redis, slo=slo) as worker,
    ):
        calm_garbage_collector()
        return await worker.run(stopping)


def main() -> int:
    try:
        reject_unknown_variables(
            os.environ, WorkerSettings, KafkaSettings, RedisSettings, TelemetrySettings, SloSettings
        )
        settings, kafka, redis = WorkerSettings(), KafkaSettings(), RedisSettings()
        telemetry, slo = TelemetrySettings(), SloSettings()
    except (UnknownSetting, ValidationError) as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_BAD_SETTINGS
    setproctitle(f"penstock services.worker {settings.name}".rstrip())
    try:
        return uvloop.run(run(settings, kafka, redis, telemetry, slo))
    except TokenizerError as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_BAD_SETTINGS
    except EngineHopeless as error:
        sys.stderr.write(f"{error.message}\n")
        return _EXIT_BAD_SETTINGS
    except PlatformError as error:
        sys.stderr.write(f"{error.code}: {error.message}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
