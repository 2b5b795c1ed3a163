"""The AsyncAPI document names every topic of the installation."""

from shared.contracts.topics import topic_specifications
from shared.messaging.asyncapi import asyncapi_document, asyncapi_page
from shared.settings.kafka import KafkaSettings

SETTINGS = KafkaSettings(topic_prefix="team.")


def test_every_topic_is_described_once_with_its_purpose() -> None:
    document = asyncapi_document(SETTINGS, pools=("default", "small"))
    wanted = topic_specifications(SETTINGS.topic_names, pools=("default", "small"))
    addresses = sorted(channel["address"] for channel in document["channels"].values())
    assert addresses == sorted(topic.name for topic in wanted)
    described = {channel["address"]: channel.get("description") for channel in document["channels"].values()}
    assert described == {topic.name: topic.purpose for topic in wanted}


def test_requests_are_received_and_results_are_sent() -> None:
    document = asyncapi_document(SETTINGS, pools=("default",))
    actions = {
        operation["channel"]["$ref"].rpartition("/")[2]: operation["action"]
        for operation in document["operations"].values()
    }
    by_address = {channel["address"]: actions[name] for name, channel in document["channels"].items()}
    assert by_address["team.inference.requests.default.interactive"] == "receive"
    assert by_address["team.inference.cancellations"] == "receive"
    assert by_address["team.inference.results"] == "send"


def test_the_page_is_html_with_the_document_in_it() -> None:
    page = asyncapi_page(SETTINGS, pools=("default",))
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert "team.inference.results" in page
