"""`python -P -m services.gateway`: settings from the environment, then serve until SIGTERM, drain, exit 0."""

import asyncio
import os
import sys
from types import FrameType

import setproctitle
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import ValidationError

from services.gateway.application import build_gateway
from services.gateway.gateway import Gateway
from services.gateway.settings import GatewaySettings
from shared.resilience.garbage_collection import calm_garbage_collector
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from shared.settings.service_settings import UnknownSetting, reject_unknown_variables
from shared.settings.slo import SloSettings
from shared.settings.telemetry import TelemetrySettings
from shared.telemetry.setup import setup_telemetry

logger = structlog.get_logger(__name__)

_NOTE_SECONDS = 3
"""After the drain's bound open responses get this long to write their last note."""


class DrainingServer(uvicorn.Server):
    """uvicorn, with our drain in place of its signal handling. A second signal ends at once."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.stopping.is_set():
            self.force_exit = True
        self.stopping.set()
        self.should_exit = True


async def run(
    settings: GatewaySettings,
    kafka: KafkaSettings,
    redis: RedisSettings,
    telemetry: TelemetrySettings,
    slo: SloSettings,
) -> int:
    async with setup_telemetry(telemetry, "gateway", settings.name):
        application = build_gateway(settings, kafka=kafka, redis=redis, slo=slo)
        server = DrainingServer(
            uvicorn.Config(
                application,
                host=settings.host,
                port=settings.port,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=settings.access_log,
                server_header=False,
                timeout_graceful_shutdown=round(settings.drain_seconds) + _NOTE_SECONDS,
            )
        )
        calm_garbage_collector()
        async with asyncio.TaskGroup() as tasks:
            drain = tasks.create_task(_drain(server, application, settings.drain_seconds))
            await server.serve()
            drain.cancel()
        return 0 if server.started else 1


async def _drain(server: DrainingServer, application: FastAPI, drain_seconds: float) -> None:
    """Stop taking; let open responses finish; at the bound end them with a note. Never cancel a request."""
    await server.stopping.wait()
    gateway: Gateway | None = getattr(application.state, "gateway", None)
    if gateway is None:
        return
    gateway.begin_drain()
    logger.info("draining", open_streams=gateway.followings.router.num_streams, bound_seconds=drain_seconds)
    await asyncio.sleep(drain_seconds)
    gateway.end_streams()


def main() -> int:
    try:
        reject_unknown_variables(
            os.environ, GatewaySettings, KafkaSettings, RedisSettings, TelemetrySettings, SloSettings
        )
        settings, kafka, redis = GatewaySettings(), KafkaSettings(), RedisSettings()
        telemetry, slo = TelemetrySettings(), SloSettings()
    except (UnknownSetting, ValidationError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    setproctitle.setproctitle(f"penstock services.gateway {settings.port}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings, kafka, redis, telemetry, slo))


if __name__ == "__main__":
    sys.exit(main())
