"""Topic names and what each topic needs."""

from shared.contracts.requests import Lane
from shared.contracts.topics import TopicNames, topic_specifications


def test_names_are_the_documented_ones() -> None:
    names = TopicNames()
    assert names.requests("default", Lane.INTERACTIVE) == "inference.requests.default.interactive"
    assert names.resume("default") == "inference.requests.default.resume"
    assert names.retries("default")[1] == "inference.requests.default.retry.4s"
    assert names.dead_letters == "inference.dead-letters"


def test_two_prefixes_share_no_topic() -> None:
    first, second = (
        {topic.name for topic in topic_specifications(TopicNames(prefix=prefix), pools=("p",))}
        for prefix in ("a.", "b.")
    )
    assert first.isdisjoint(second)


def test_each_pool_has_its_lanes_and_a_resume_topic_and_the_rest_is_shared() -> None:
    names = TopicNames()
    one = {topic.name for topic in topic_specifications(names, pools=("p",))}
    two = {topic.name for topic in topic_specifications(names, pools=("p", "q"))}
    lanes = {names.requests("q", lane) for lane in Lane}
    assert two - one == lanes | {names.resume("q")} | set(names.retries("q"))


def test_results_are_never_compacted_since_the_first_record_of_an_id_is_the_truth() -> None:
    names = TopicNames()
    results = next(topic for topic in topic_specifications(names, pools=("p",)) if topic.name == names.results)
    assert results.configs["cleanup.policy"] == "delete"


def test_request_topics_take_the_settings_partitions_and_message_limit() -> None:
    names = TopicNames()
    topics = {
        topic.name: topic
        for topic in topic_specifications(names, pools=("p",), request_partitions=5, max_message_bytes=70_000)
    }
    lane = topics[names.requests("p", Lane.INTERACTIVE)]
    assert lane.partitions == 5
    assert lane.configs["max.message.bytes"] == "70000"
    assert all(topic.purpose for topic in topics.values())
