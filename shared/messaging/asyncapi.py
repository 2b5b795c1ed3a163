"""The AsyncAPI document of an installation: every topic, its direction, its message. Describes; connects to nothing."""

import json
from typing import Any

from faststream.kafka import KafkaBroker
from faststream.specification import AsyncAPI, get_asyncapi_html
from faststream.specification.base import Specification

from shared.contracts.requests import Lane
from shared.contracts.topics import TopicNames, topic_specifications
from shared.settings.kafka import KafkaSettings

_TITLE = "Penstock"
_DESCRIPTION = (
    "Event-driven LLM inference. Post an OpenAI request body to a request topic; "
    "read the OpenAI response body from the results topic or from the topic you name in `penstock-reply-to`."
)


def asyncapi_document(settings: KafkaSettings, *, pools: tuple[str, ...], version: str = "1") -> dict[str, Any]:
    """AsyncAPI 3.0, as a JSON object."""
    document: dict[str, Any] = json.loads(_specification(settings, pools, version).to_json())
    return document


def asyncapi_page(settings: KafkaSettings, *, pools: tuple[str, ...], version: str = "1") -> str:
    """The document as an HTML page."""
    return get_asyncapi_html(_specification(settings, pools, version), try_it_out_path=None)


def _specification(settings: KafkaSettings, pools: tuple[str, ...], version: str) -> Specification:
    names = settings.topic_names
    broker = KafkaBroker(settings.bootstrap_servers.split(","), description="Apache Kafka")
    read = _read_by_the_platform(names, pools)
    for topic in topic_specifications(names, pools=pools):
        if topic.name in read:
            broker.subscriber(topic.name, title=topic.name, description=topic.purpose)(_received)
        else:
            broker.publisher(topic.name, title=topic.name, description=topic.purpose, schema=bytes)
    return AsyncAPI(broker, title=_TITLE, version=version, description=_DESCRIPTION).to_specification()


def _read_by_the_platform(names: TopicNames, pools: tuple[str, ...]) -> frozenset[str]:
    return frozenset({names.cancellations}) | {names.requests(pool, lane) for pool in pools for lane in Lane}


async def _received(message: bytes) -> None:
    """JSON in OpenAI's shape, or protobuf, as `content-type` says."""
