"""The names of the Kafka headers we read and write; the only place where they are spelt.

CloudEvents in binary mode (`ce_` prefix, Kafka protocol binding 1.0.2), W3C trace context, and ours.
"""

CONTENT_TYPE = "content-type"

CE_SPECVERSION = "ce_specversion"
CE_ID = "ce_id"
CE_TYPE = "ce_type"
CE_SOURCE = "ce_source"
CE_TIME = "ce_time"
CE_SUBJECT = "ce_subject"

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

DEADLINE_MS = "penstock-deadline-ms"
TENANT = "penstock-tenant"
PRIORITY = "penstock-priority"
REPLY_TO = "penstock-reply-to"
ORDERED = "penstock-ordered"
"""`true`: records of one key are worked on one after another, in the order of their offsets."""
ENDPOINT = "penstock-endpoint"
"""`chat` or `completion`; without it a JSON body with `messages` is a chat request."""

# Written by the platform on copies (resume, retry) and believed on those topics only.
REQUEST_ID = "penstock-request-id"
LANE = "penstock-lane"
ATTEMPT = "penstock-attempt"
RETRIES = "penstock-retries"
"""Attempts that ended in an error of ours that is worth another try."""
NOT_BEFORE_MS = "penstock-not-before-ms"
"""On the retry topics: the instant before which nobody tries again, by Redis' clock."""
SOURCE_TOPIC = "penstock-source-topic"
SOURCE_PARTITION = "penstock-source-partition"
SOURCE_OFFSET = "penstock-source-offset"
SOURCE_TIMESTAMP_MS = "penstock-source-timestamp-ms"
SOURCE_KEY = "penstock-source-key"

# Written on dead letters.
DEAD_LETTER_REASON = "penstock-dead-letter-reason"
DEAD_LETTER_CODE = "penstock-dead-letter-code"
DEAD_LETTER_TIME = "penstock-dead-letter-time"

SCHEMA_VERSION = "penstock-schema-version"
"""`<major>.<minor>` of whoever wrote the record (`schema_version.py`)."""

KNOWN = frozenset(
    {
        CONTENT_TYPE, CE_SPECVERSION, CE_ID, CE_TYPE, CE_SOURCE, CE_TIME, CE_SUBJECT, TRACEPARENT, TRACESTATE,
        DEADLINE_MS, TENANT, PRIORITY, REPLY_TO, ORDERED, ENDPOINT, REQUEST_ID, LANE, ATTEMPT, RETRIES,
        NOT_BEFORE_MS, SOURCE_TOPIC,
        SOURCE_PARTITION, SOURCE_OFFSET, SOURCE_TIMESTAMP_MS, SOURCE_KEY, DEAD_LETTER_REASON, DEAD_LETTER_CODE,
        DEAD_LETTER_TIME, SCHEMA_VERSION,
    }
)  # fmt: skip
"""Every other header of a request belongs to its producer and comes back on the result."""

EVENT_TYPE_PREFIX = "penstock.inference."
"""A result's `ce_type` is this, the outcome and `.v1`: `penstock.inference.completed.v1`."""
