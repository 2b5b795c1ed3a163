"""`penstock key`: who may ask. Issues, lists and revokes API keys on their Kafka topic; gateways follow it."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from services.cli.console import CommandFailed, err, out, plain_errors
from shared.contracts.api_key_codec import decode_api_key, encode_api_key
from shared.contracts.api_keys import ApiKey, issue_key
from shared.contracts.errors import BrokerUnavailable, PoisonMessage
from shared.contracts.headers import CONTENT_TYPE
from shared.messaging.producer import RecordProducer
from shared.messaging.topic_reading import read_topic
from shared.settings.kafka import KafkaSettings

key_app = typer.Typer(help="API keys: who may ask, and for which models.", no_args_is_help=True)

KafkaOption = Annotated[str | None, typer.Option("--kafka", help="HOST:PORT; default: the setting.")]

_LARGEST_LIMIT = 2**32 - 1
_HINT = "is PENSTOCK_KAFKA_BOOTSTRAP_SERVERS right? `penstock topics apply` creates missing topics"


def _limit_option(what: str) -> Any:
    text = f"{what} a minute that this key may ask for, besides its tenant's limits; default: none of its own."
    return typer.Option(min=1, max=_LARGEST_LIMIT, help=text)


@key_app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose requests these are.")],
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; repeat for more; default: all.")] = None,
    requests_per_minute: Annotated[int | None, _limit_option("Requests")] = None,
    tokens_per_minute: Annotated[int | None, _limit_option("Output tokens")] = None,
    label: Annotated[str, typer.Option(help="A word to know it by.")] = "",
    kafka: KafkaOption = None,
) -> None:
    """Issue a key and print it, once. From the first key on, every request needs one."""
    with plain_errors():
        if not tenant.strip():
            raise CommandFailed("--tenant is empty", hint="name whose requests these will be")
        text, key = issue_key(
            tenant=tenant.strip(),
            models=tuple(model or ()),
            label=label,
            now_ms=_now_ms(),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        settings = _settings(kafka)
        is_first = not asyncio.run(_read(settings))
        asyncio.run(_write(settings, key))
        err.print(f"key {key.key_id} of tenant {escape(key.tenant)}; it is shown only now:")
        typer.echo(text)
        if is_first:
            err.print("[yellow]-[/] this is the first key: from now on every HTTP request needs one")


@key_app.command(name="list")
def list_keys(kafka: KafkaOption = None) -> None:
    """Every key that was issued, without the key."""
    with plain_errors():
        keys = asyncio.run(_read(_settings(kafka)))
        out.print(_table(sorted(keys.values(), key=lambda key: key.created_at_ms)))


@key_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `penstock key list` names it.")], kafka: KafkaOption = None
) -> None:
    """Make a key useless. What it has already asked is still answered."""
    with plain_errors():
        settings = _settings(kafka)
        keys = asyncio.run(_read(settings))
        key = keys.get(key_id)
        if key is None:
            raise CommandFailed(f"no key {key_id} was issued", hint="`penstock key list` names them")
        if key.is_revoked:
            out.print(f"key {key_id} was revoked before")
            return
        asyncio.run(_write(settings, key.revoked(_now_ms())))
        out.print(f"key {key_id} of tenant {escape(key.tenant)} is revoked")


async def _read(settings: KafkaSettings) -> dict[str, ApiKey]:
    keys: dict[str, ApiKey] = {}
    try:
        async for record in read_topic(settings, settings.topic_names.api_keys):
            try:
                key = decode_api_key(record.value)
            except PoisonMessage as error:
                err.print(f"[yellow]-[/] record {record.offset} is no API key: {escape(error.message)}")
            else:
                keys[key.key_id] = key
    except BrokerUnavailable as error:
        raise CommandFailed(error.message, hint=_HINT) from None
    return keys


async def _write(settings: KafkaSettings, key: ApiKey) -> None:
    try:
        async with RecordProducer(settings, client_id="penstock-cli") as producer:
            await producer.send(
                settings.topic_names.api_keys,
                key=key.key_id.encode(),
                value=encode_api_key(key),
                headers=[(CONTENT_TYPE, b"application/protobuf")],
            )
    except BrokerUnavailable as error:
        raise CommandFailed(error.message, hint=_HINT) from None


def _settings(kafka: str | None) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka) if kafka else KafkaSettings()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _table(keys: list[ApiKey]) -> Table:
    table = Table(title=f"API keys: {len(keys)}", title_justify="left")
    for column in ("key", "tenant", "models", "a minute", "label", "created", "revoked"):
        table.add_column(column, no_wrap=column != "models")
    for key in keys:
        table.add_row(
            key.key_id,
            escape(key.tenant),
            escape(", ".join(key.models) or "all"),
            _limits(key),
            escape(key.label),
            _time(key.created_at_ms),
            "" if key.revoked_at_ms is None else _time(key.revoked_at_ms),
        )
    return table


def _limits(key: ApiKey) -> str:
    limits = ((key.requests_per_minute, "requests"), (key.tokens_per_minute, "tokens"))
    return ", ".join(f"{limit:,} {what}" for limit, what in limits if limit is not None)


def _time(instant_ms: int) -> str:
    return datetime.fromtimestamp(instant_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
