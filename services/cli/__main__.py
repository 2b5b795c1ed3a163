"""`penstock`: the command line. Wires commands to names; what they do is in `commands/`."""

from __future__ import annotations

import os

import typer

from services.cli.commands.ask import generate
from services.cli.commands.bench import bench_app
from services.cli.commands.demo import demo
from services.cli.commands.dlq import dlq_app
from services.cli.commands.doctor import doctor
from services.cli.commands.drain import drain
from services.cli.commands.fleet import fleet
from services.cli.commands.key import key_app
from services.cli.commands.model import model_app
from services.cli.commands.offline import PASS_THROUGH, quantize, run_batch
from services.cli.commands.orders import quarantine, resume
from services.cli.commands.rolling_restart import rolling_restart
from services.cli.commands.rollout import rollout
from services.cli.commands.slo import slo
from services.cli.commands.top import top
from services.cli.commands.topics import topics_app
from services.cli.commands.trace import trace
from services.cli.commands.up import up
from services.cli.console import give_up
from services.cli.settings import CommandSettings, UpSettings
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from shared.settings.service_settings import UnknownSetting, reject_unknown_variables
from shared.settings.telemetry import TelemetrySettings

app = typer.Typer(
    name="penstock",
    help="Event-driven LLM inference on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(up)
app.command()(demo)
app.command()(generate)
app.command()(fleet)
app.command()(drain)
app.command()(quarantine)
app.command()(resume)
app.command()(rollout)
app.command()(slo)
app.command()(top)
app.command(name="rolling-restart")(rolling_restart)
app.command()(trace)
app.command()(doctor)
app.command(name="run-batch", context_settings=PASS_THROUGH)(run_batch)
app.command(name="quantize", context_settings=PASS_THROUGH)(quantize)
app.add_typer(bench_app, name="bench")
app.add_typer(dlq_app, name="dlq")
app.add_typer(key_app, name="key")
app.add_typer(model_app, name="model")
app.add_typer(topics_app, name="topics")


@app.callback()
def refuse_misspelt_settings() -> None:
    """Event-driven LLM inference on Kafka."""
    try:
        reject_unknown_variables(
            os.environ, UpSettings, CommandSettings, KafkaSettings, RedisSettings, TelemetrySettings
        )
    except UnknownSetting as error:
        give_up(str(error), code=2)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
