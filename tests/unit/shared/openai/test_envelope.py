"""Headers in, an envelope out, whatever the headers are; and the headers of copies and results."""

from dataclasses import replace

import pytest

from shared.contracts import headers as names_of
from shared.contracts.events import Outcome
from shared.contracts.identifiers import (
    RequestId,
    body_fingerprint,
    request_id_from_coordinates,
    request_id_from_event,
)
from shared.contracts.requests import Coordinates, Lane, RequestEnvelope, RequestKind, WireFormat
from shared.contracts.schema_version import OURS, UNVERSIONED, SchemaVersion
from shared.contracts.topics import TopicNames
from shared.openai.envelope import (
    GATEWAY_SOURCE,
    Headers,
    copy_headers,
    gateway_headers,
    gateway_request_id,
    read_envelope,
    result_headers,
    retry_instant_ms,
    timestamp_text,
)
from tests.contract_strategies import FakeRecord

NAMES = TopicNames(prefix="blue.")
INTERACTIVE = NAMES.requests("default", Lane.INTERACTIVE)
RECORD = FakeRecord(topic=INTERACTIVE, key=b"route", value=b'{"prompt": "x"}')
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
NOW_MS = 1_764_000_000_123
OTHER_ID = "f" * 32


def read(*headers: tuple[str, bytes | None], record: FakeRecord = RECORD) -> RequestEnvelope:
    return read_envelope(replace(record, headers=headers), names=NAMES, pool="default", cluster="cluster-1")


class TestPlainRecord:
    def test_a_record_without_headers_is_an_interactive_json_request(self) -> None:
        coordinates = Coordinates(topic=INTERACTIVE, partition=3, offset=41, timestamp_ms=1_764_000_000_000)
        assert read() == RequestEnvelope(
            request_id=request_id_from_coordinates(
                cluster="cluster-1", topic=INTERACTIVE, partition=3, offset=41, timestamp_ms=1_764_000_000_000
            ),
            pool="default",
            lane=Lane.INTERACTIVE,
            tenant="",
            wire_format=WireFormat.JSON,
            fingerprint=body_fingerprint(b'{"prompt": "x"}'),
            coordinates=coordinates,
            key=b"route",
        )

    def test_the_lane_is_the_topics(self) -> None:
        bulk = replace(RECORD, topic=NAMES.requests("default", Lane.BULK))
        assert read(record=bulk).lane is Lane.BULK

    def test_a_record_without_a_value_has_an_envelope(self) -> None:
        assert read(record=replace(RECORD, value=None)).fingerprint == body_fingerprint(b"")

    def test_every_header_of_ours_is_read(self) -> None:
        envelope = read(
            (names_of.TENANT, b"acme"),
            (names_of.DEADLINE_MS, b"1764000030123"),
            (names_of.PRIORITY, b"-5"),
            (names_of.REPLY_TO, b"answers"),
            (names_of.ENDPOINT, b"completion"),
            (names_of.CE_ID, b"order-7"),
            (names_of.TRACEPARENT, TRACEPARENT.encode()),
            (names_of.TRACESTATE, b"vendor=1"),
        )
        assert (envelope.tenant, envelope.deadline_ms, envelope.priority) == ("acme", 1_764_000_030_123, -5)
        assert (envelope.reply_to, envelope.kind, envelope.event_id) == (
            "answers",
            RequestKind.COMPLETION,
            "order-7",
        )
        assert envelope.trace_headers == (("traceparent", TRACEPARENT), ("tracestate", "vendor=1"))
        assert envelope.foreign_headers == ()
        assert envelope.problem is None


class TestIdentity:
    def test_an_event_id_names_the_request_wherever_the_record_lies(self) -> None:
        headers = ((names_of.CE_ID, b"7"), (names_of.CE_SOURCE, b"/shop"), (names_of.TENANT, b"acme"))
        expected = request_id_from_event(tenant="acme", source="/shop", event_id="7")
        assert read(*headers).request_id == expected
        assert read(*headers, record=replace(RECORD, offset=99)).request_id == expected

    def test_event_ids_that_are_not_utf8_stay_distinct(self) -> None:
        assert read((names_of.CE_ID, b"\xff")).request_id != read((names_of.CE_ID, b"\xfe")).request_id
        assert read((names_of.CE_ID, b"\xff")).event_id is None

    def test_an_empty_event_id_is_none(self) -> None:
        assert read((names_of.CE_ID, b"")).request_id == read().request_id

    def test_the_gateway_knows_the_id_beforehand(self) -> None:
        headers = gateway_headers(
            event_id="e1",
            tenant="acme",
            kind=RequestKind.CHAT,
            accepted_at_ms=NOW_MS,
            deadline_ms=NOW_MS + 1_000,
            priority=3,
            reply_to="answers",
            trace_headers=(("traceparent", TRACEPARENT),),
        )
        envelope = read(*headers)
        assert envelope.request_id == gateway_request_id(tenant="acme", event_id="e1")
        assert (envelope.kind, envelope.deadline_ms, envelope.priority) == (
            RequestKind.CHAT,
            NOW_MS + 1_000,
            3,
        )
        assert (envelope.tenant, envelope.reply_to) == ("acme", "answers")
        assert envelope.trace_headers == (("traceparent", TRACEPARENT),)
        assert dict(headers)[names_of.CE_SOURCE] == GATEWAY_SOURCE.encode()
        assert dict(headers)[names_of.CE_TIME] == b"2025-11-24T16:00:00.123Z"

    def test_an_id_header_on_an_ordinary_topic_is_not_believed(self) -> None:
        assert read((names_of.REQUEST_ID, OTHER_ID.encode())).request_id != OTHER_ID


class TestOddHeaders:
    def test_null_is_absent_and_the_last_value_counts(self) -> None:
        headers = ((names_of.TENANT, b"a"), (names_of.TENANT, b"b"), (names_of.TENANT, None))
        assert read(*headers).tenant == "b"

    def test_names_are_compared_without_case(self) -> None:
        assert read(("Content-Type", b"application/protobuf")).wire_format is WireFormat.PROTOBUF

    def test_foreign_headers_are_kept_as_they_are(self) -> None:
        foreign = (("x", None), ("\udcff", b"\xff"), ("x", b"1"), ("ce_partitionkey", b"k"))
        assert read(*foreign, (names_of.TENANT, b"a")).foreign_headers == foreign

    @pytest.mark.parametrize("value", [b"nonsense", b"\xff", TRACEPARENT[:-1].encode(), b""])
    def test_a_broken_trace_is_dropped(self, value: bytes) -> None:
        envelope = read((names_of.TRACEPARENT, value), (names_of.TRACESTATE, b"v=1"))
        assert envelope.trace_headers == ()
        assert envelope.problem is None

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            (names_of.DEADLINE_MS, b"soon"),
            (names_of.DEADLINE_MS, b"30000"),  # a duration
            (names_of.DEADLINE_MS, b"1764000030"),  # seconds
            (names_of.DEADLINE_MS, b"1764000030123.5"),
            (names_of.DEADLINE_MS, b"9" * 400),
            (names_of.DEADLINE_MS, "１７６４０００".encode()),
            (names_of.DEADLINE_MS, b"\xff"),
            (names_of.PRIORITY, b"high"),
            (names_of.PRIORITY, b"1001"),
            (names_of.REPLY_TO, b"not a topic"),
            (names_of.REPLY_TO, b".."),
            (names_of.REPLY_TO, b"x" * 250),
            (names_of.REPLY_TO, b"\xff"),
            (names_of.TENANT, b"\xff"),
            (names_of.TENANT, b"a\x00b"),
            (names_of.TENANT, b"x" * 257),
            (names_of.ENDPOINT, b"embeddings"),
        ],
    )
    def test_a_bad_value_is_a_problem_that_names_its_header(self, header: str, value: bytes) -> None:
        problem = read((header, value)).problem
        assert problem is not None
        assert problem.header == header
        assert header in problem.message
        assert not problem.is_poison


class TestContentType:
    @pytest.mark.parametrize(
        ("content_type", "wire_format"),
        [
            (b"application/json", WireFormat.JSON),
            (b"application/json; charset=utf-8", WireFormat.JSON),
            (b"text/plain", WireFormat.JSON),
            (b"\xff", WireFormat.JSON),
            (None, WireFormat.JSON),
            (b"application/protobuf", WireFormat.PROTOBUF),
            (b"Application/X-Protobuf; proto=InferenceRequested", WireFormat.PROTOBUF),
        ],
    )
    def test_it_decides_the_format(self, content_type: bytes | None, wire_format: WireFormat) -> None:
        assert read((names_of.CONTENT_TYPE, content_type)).wire_format is wire_format

    @pytest.mark.parametrize("kind", [b"cloudevents+json; charset=utf-8", b"cloudevents-batch+json"])
    def test_structured_cloudevents_are_poison_by_name(self, kind: bytes) -> None:
        problem = read((names_of.PRIORITY, b"x"), (names_of.CONTENT_TYPE, b"application/" + kind)).problem
        assert problem.is_poison
        assert "structured mode" in problem.message


class TestCopies:
    HEADERS: Headers = (
        (names_of.CE_ID, b"7"),
        (names_of.TENANT, b"acme"),
        (names_of.DEADLINE_MS, b"1764000030123"),
        (names_of.REPLY_TO, b"answers"),
        ("x-own", b"1"),
    )

    def copy(self, headers: Headers, topic: str = NAMES.resume("default")) -> RequestEnvelope:
        record = FakeRecord(topic=topic, partition=0, offset=5, timestamp_ms=1, key=b"other", value=RECORD.value)
        return read(*headers, record=record)

    @pytest.mark.parametrize("suffix", ["resume", "retry.4s"])
    @pytest.mark.parametrize("lane", Lane)
    def test_a_copy_reads_as_its_original(self, lane: Lane, suffix: str) -> None:
        original = read(*self.HEADERS, record=replace(RECORD, topic=NAMES.requests("default", lane)))
        topic = f"{NAMES.prefix}inference.requests.default.{suffix}"
        assert self.copy(copy_headers(original, self.HEADERS), topic) == original

    def test_the_attempt_can_be_raised(self) -> None:
        second = self.copy(copy_headers(read(*self.HEADERS), self.HEADERS, attempt=2))
        assert second.attempt == 2
        assert self.copy(copy_headers(second, self.HEADERS)).attempt == 2

    def test_a_copy_of_a_copy_has_each_header_once(self) -> None:
        original = read(*self.HEADERS)
        headers = copy_headers(original, copy_headers(original, self.HEADERS))
        assert len({name for name, _ in headers}) == len(headers)

    def test_a_record_without_a_key_has_none_in_its_copy(self) -> None:
        original = read(record=replace(RECORD, key=None))
        assert self.copy(copy_headers(original, ())).key is None

    @pytest.mark.parametrize("value", [b"", b"xyz", b"\xff" * 32, b"F" * 32])
    def test_a_broken_id_on_a_copy_is_derived_again(self, value: bytes) -> None:
        envelope = self.copy(((names_of.REQUEST_ID, value), (names_of.CE_ID, b"7")))
        assert envelope.request_id == request_id_from_event(tenant="", source="", event_id="7")

    def test_broken_coordinates_are_replaced_by_the_copys_own(self) -> None:
        headers = ((names_of.SOURCE_TOPIC, b"t"), (names_of.SOURCE_OFFSET, b"x"))
        assert self.copy(headers).coordinates.offset == 5


class TestResults:
    ENVELOPE = read(
        (names_of.CE_ID, b"order-7"),
        (names_of.TENANT, b"acme"),
        ("x-own", None),
        (names_of.TRACEPARENT, TRACEPARENT.encode()),
    )

    def result(self, outcome: Outcome = Outcome.COMPLETED, **changes: object) -> Headers:
        return result_headers(replace(self.ENVELOPE, **changes), outcome, sealed_at_ms=NOW_MS)

    def test_a_result_is_a_cloudevent_that_leads_back_to_its_request(self) -> None:
        assert self.result() == (
            ("content-type", b"application/json"),
            ("ce_specversion", b"1.0"),
            ("ce_id", self.ENVELOPE.request_id.encode()),
            ("ce_type", b"penstock.inference.completed.v1"),
            ("ce_source", b"/penstock/default"),
            ("ce_time", b"2025-11-24T16:00:00.123Z"),
            ("penstock-schema-version", b"1.1"),
            ("ce_subject", b"order-7"),
            ("penstock-tenant", b"acme"),
            ("penstock-source-topic", INTERACTIVE.encode()),
            ("penstock-source-partition", b"3"),
            ("penstock-source-offset", b"41"),
            ("penstock-source-timestamp-ms", b"1764000000000"),
            ("penstock-source-key", b"route"),
            ("traceparent", TRACEPARENT.encode()),
            ("x-own", None),
        )

    @pytest.mark.parametrize("outcome", Outcome)
    def test_the_type_says_the_outcome(self, outcome: Outcome) -> None:
        assert dict(self.result(outcome))["ce_type"] == f"penstock.inference.{outcome}.v1".encode()

    def test_what_the_request_had_not_is_absent(self) -> None:
        bare = dict(self.result(key=None, event_id=None, tenant="", trace_headers=()))
        assert not {"ce_subject", "penstock-tenant", "penstock-source-key", "traceparent"} & set(bare)

    def test_the_span_of_the_answer_replaces_the_requests(self) -> None:
        headers = result_headers(
            self.ENVELOPE, Outcome.FAILED, sealed_at_ms=1, trace_headers=(("traceparent", "mine"),)
        )
        assert [value for name, value in headers if name == "traceparent"] == [b"mine"]


@pytest.mark.parametrize(
    ("instant_ms", "text"),
    [(0, "1970-01-01T00:00:00.000Z"), (1, "1970-01-01T00:00:00.001Z"), (NOW_MS, "2025-11-24T16:00:00.123Z")],
)
def test_instants_have_milliseconds_and_a_z(instant_ms: int, text: str) -> None:
    assert timestamp_text(instant_ms) == text


def test_ids_of_the_gateway_are_separate_by_tenant() -> None:
    ids: set[RequestId] = {gateway_request_id(tenant=tenant, event_id="e") for tenant in ("", "a", "b")}
    assert len(ids) == 3


class TestRetries:
    HEADERS = (("ce_id", b"order-7"), ("penstock-tenant", b"acme"))

    def test_a_copy_for_later_says_when_and_how_often_it_failed(self) -> None:
        headers = copy_headers(read(*self.HEADERS), self.HEADERS, retries=2, not_before_ms=1_764_000_000_500)
        copy = FakeRecord(topic=NAMES.retry("default", 4), partition=0, offset=5, timestamp_ms=1, key=b"k", value=b"{}")
        assert read(*headers, record=copy).retries == 2
        assert retry_instant_ms(headers) == 1_764_000_000_500

    def test_a_copy_of_it_for_now_still_says_how_often_it_failed_and_no_longer_when(self) -> None:
        later = copy_headers(read(*self.HEADERS), self.HEADERS, retries=2, not_before_ms=1_764_000_000_500)
        copy = FakeRecord(topic=NAMES.retry("default", 4), partition=0, offset=5, timestamp_ms=1, key=b"k", value=b"{}")
        now = copy_headers(read(*later, record=copy), later)
        assert dict(now)["penstock-retries"] == b"2"
        assert retry_instant_ms(now) is None

    def test_a_producer_can_claim_no_failures(self) -> None:
        assert read(("penstock-retries", b"2")).retries == 0

    @pytest.mark.parametrize("value", [None, b"", b"soon", b"\xff"])
    def test_an_instant_that_is_none_means_now(self, value: bytes | None) -> None:
        assert retry_instant_ms((("penstock-not-before-ms", value),)) is None


class TestOrder:
    def test_a_record_with_a_key_may_ask_for_its_order(self) -> None:
        assert read(("penstock-ordered", b"true")).is_ordered
        assert not read(("penstock-ordered", b"false")).is_ordered
        assert not read().is_ordered

    def test_order_without_a_key_is_refused_by_name(self) -> None:
        envelope = read(("penstock-ordered", b"true"), record=replace(RECORD, key=None))
        assert not envelope.is_ordered
        assert envelope.problem is not None
        assert "needs a record with a key" in envelope.problem.message

    def test_what_is_neither_true_nor_false_is_refused_by_name(self) -> None:
        problem = read(("penstock-ordered", b"yes")).problem
        assert problem is not None
        assert problem.header == "penstock-ordered"

    def test_a_copy_keeps_no_place(self) -> None:
        record = replace(RECORD, topic=NAMES.resume("default"))
        assert not read(("penstock-ordered", b"true"), record=record).is_ordered


class TestVersions:
    def test_a_record_without_a_version_is_the_first_ones(self) -> None:
        assert read().version == UNVERSIONED

    def test_the_gateway_and_results_say_ours(self) -> None:
        headers = gateway_headers(event_id="e", tenant="", kind=RequestKind.CHAT, accepted_at_ms=1)
        assert read(*headers).version == OURS

    def test_a_newer_one_is_read_and_what_is_no_version_is_a_problem(self) -> None:
        assert read(("penstock-schema-version", b"2.17")).version == SchemaVersion(2, 17)
        assert read(("penstock-schema-version", b"2.17")).problem is None
        assert read(("penstock-schema-version", b"two")).problem is not None
