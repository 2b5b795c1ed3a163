"""`penstock dlq`: look at the dead letters, ask them again, forget them. Nothing is changed without `--yes`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from services.cli.console import CommandFailed, err, out, plain_errors
from services.cli.dead_letters import DeadLetter, Purge, Selection, purge_of
from shared.contracts.errors import BrokerUnavailable, OutcomeTooLarge
from shared.messaging.producer import RecordProducer
from shared.messaging.topic_reading import forget_before, read_topic
from shared.settings.kafka import KafkaSettings

dlq_app = typer.Typer(help="Dead letters: records nobody could work on.", no_args_is_help=True)

KafkaOption = Annotated[str | None, typer.Option("--kafka", help="HOST:PORT; default: the setting.")]
CodeOption = Annotated[list[str] | None, typer.Option("--code", help="Error code; repeat for several.")]
TopicOption = Annotated[str, typer.Option("--topic", help="Topic that the record came from.")]
ContainingOption = Annotated[str, typer.Option("--containing", help="Words of the reason.")]
SinceOption = Annotated[float | None, typer.Option("--since-hours", help="Not older than so many hours.")]
WhereArgument = Annotated[list[str] | None, typer.Argument(help="Letters as `list` names them: PARTITION@OFFSET.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it. Without this it is only said what would be done.")]

_MS_PER_HOUR = 3_600_000


def _selection(
    where: list[str] | None, code: list[str] | None, topic: str, containing: str, since_hours: float | None
) -> Selection:
    since_ms = 0 if since_hours is None else round(time.time() * 1_000 - since_hours * _MS_PER_HOUR)
    return Selection(
        codes=tuple(code or ()),
        source_topic=topic,
        containing=containing,
        where=tuple(where or ()),
        since_ms=since_ms,
    )


def _settings(kafka: str | None) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka) if kafka else KafkaSettings()


async def _letters(settings: KafkaSettings, selection: Selection) -> list[DeadLetter]:
    try:
        letters = [DeadLetter(record) async for record in read_topic(settings, settings.topic_names.dead_letters)]
    except BrokerUnavailable as error:
        raise CommandFailed(error.message, hint="is PENSTOCK_KAFKA_BOOTSTRAP_SERVERS right?") from None
    return [letter for letter in letters if selection.fits(letter)]


@dlq_app.command(name="list")
def list_letters(
    code: CodeOption = None,
    topic: TopicOption = "",
    containing: ContainingOption = "",
    since_hours: SinceOption = None,
    kafka: KafkaOption = None,
) -> None:
    """One line a letter, the oldest first."""
    with plain_errors():
        selection = _selection(None, code, topic, containing, since_hours)
        letters = asyncio.run(_letters(_settings(kafka), selection))
        out.print(_table(letters), soft_wrap=True)


@dlq_app.command()
def show(where: Annotated[str, typer.Argument(help="PARTITION@OFFSET")], kafka: KafkaOption = None) -> None:
    """Everything of one letter: reason, headers, bytes."""
    with plain_errors():
        letters = asyncio.run(_letters(_settings(kafka), Selection(where=(where,))))
        if not letters:
            raise CommandFailed(f"no dead letter is at {where}", hint="`penstock dlq list` names them")
        _print(letters[0])


@dlq_app.command()
def replay(
    where: WhereArgument = None,
    code: CodeOption = None,
    topic: TopicOption = "",
    containing: ContainingOption = "",
    since_hours: SinceOption = None,
    to: Annotated[str, typer.Option("--to", help="Topic to post to; default: where each came from.")] = "",
    yes: YesOption = False,
    kafka: KafkaOption = None,
) -> None:
    """Ask again, under an id of its own. A letter replayed twice is one request."""
    with plain_errors():
        settings = _settings(kafka)
        letters = asyncio.run(_letters(settings, _selection(where, code, topic, containing, since_hours)))
        for letter in letters:
            out.print(f"{letter.where} -> {escape(to or letter.source_topic)}: {escape(letter.reason)}", soft_wrap=True)
        if not yes:
            out.print(f"{len(letters)} would be replayed; --yes does it")
            return
        asyncio.run(_replay(settings, letters, to))
        out.print(f"{len(letters)} replayed")


@dlq_app.command()
def purge(
    where: WhereArgument = None,
    code: CodeOption = None,
    topic: TopicOption = "",
    containing: ContainingOption = "",
    since_hours: SinceOption = None,
    yes: YesOption = False,
    kafka: KafkaOption = None,
) -> None:
    """Forget the chosen letters for good; without a choice, all there are now.

    Kafka forgets from the beginning only: a letter that is kept and lies before one that goes is written again first.
    """
    with plain_errors():
        settings = _settings(kafka)
        letters = asyncio.run(_letters(settings, Selection()))
        plan = purge_of(letters, _selection(where, code, topic, containing, since_hours))
        for letter in plan.forgotten:
            out.print(f"{letter.where}: {escape(letter.reason)}", soft_wrap=True)
        if not yes:
            out.print(f"{len(plan.forgotten)} would be forgotten, {len(plan.moved)} moved; --yes does it")
            return
        asyncio.run(_purge(settings, plan))
        out.print(f"{len(plan.forgotten)} forgotten, {len(plan.moved)} moved")


async def _replay(settings: KafkaSettings, letters: list[DeadLetter], to: str) -> None:
    if homeless := [letter.where for letter in letters if not (to or letter.source_topic)]:
        raise CommandFailed(f"it is not known where {', '.join(homeless)} came from", hint="name a topic with --to")
    try:
        async with RecordProducer(settings, client_id="penstock-cli") as producer:
            for letter in letters:
                record = letter.record
                await producer.send(
                    to or letter.source_topic, key=record.key, value=record.value, headers=letter.replayed()
                )
    except (BrokerUnavailable, OutcomeTooLarge) as error:
        raise CommandFailed(error.message, hint="run it again: what was replayed is not answered twice") from None


async def _purge(settings: KafkaSettings, plan: Purge) -> None:
    """First the copies, acknowledged, then the places: who is stopped between the two has some letters twice."""
    try:
        if plan.moved:
            async with RecordProducer(settings, client_id="penstock-cli") as producer:
                for letter in plan.moved:
                    record = letter.record
                    await producer.send(record.topic, key=record.key, value=record.value, headers=letter.moved())
        if plan.ends:
            await forget_before(settings, plan.ends)
    except (BrokerUnavailable, OutcomeTooLarge) as error:
        raise CommandFailed(error.message, hint="nothing is lost; a moved letter may be there twice") from None


def _table(letters: list[DeadLetter]) -> Table:
    table = Table(title=f"Dead letters: {len(letters)}", title_justify="left")
    for column in ("letter", "died", "code", "attempts", "from", "reason"):
        table.add_column(column, no_wrap=column != "reason")
    for letter in sorted(letters, key=lambda letter: letter.died_at_ms):
        table.add_row(
            letter.where,
            _time(letter.died_at_ms),
            *(escape(text) for text in (letter.code, letter.attempt, letter.source, letter.reason)),
        )
    return table


def _print(letter: DeadLetter) -> None:
    out.print(f"[bold]{letter.where}[/] died {_time(letter.died_at_ms)} of {escape(letter.code)}")
    for name, text in (("reason", letter.reason), ("from", letter.source), ("attempts", letter.attempt)):
        out.print(f"{name:<8} {escape(text)}", soft_wrap=True)
    if letter.trace:
        out.print(f"trace    {escape(letter.trace)}")
    out.print("[dim]headers[/]")
    for name, value in letter.record.headers:
        out.print(f"  {escape(repr(name))}: {escape(repr(value))}", soft_wrap=True)
    if letter.record.key is not None:
        out.print(f"[dim]key[/] {escape(repr(letter.record.key))}")
    err.print(f"[dim]{len(letter.record.value or b'')} bytes follow on standard output[/]")
    typer.echo(letter.record.value or b"")


def _time(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
