"""A record of the results topic back into the outcome that was sealed: for a ledger that lost its own copy.

The inverse of `sealing.py` as far as the record tells: where a reply was asked for is not in it (it has been sent).
Refuses to judge who wrote the record; what does not look like a result of ours is None.
"""

from datetime import datetime

from shared.contracts import headers as names_of
from shared.contracts.events import Outcome, PublishedOutcome, SealedOutcome
from shared.contracts.identifiers import RequestId, is_request_id
from shared.contracts.requests import WireFormat
from shared.openai.envelope import RecordLike, source_coordinates

_SOURCE_PREFIX = "/penstock/"
_VERSION_SUFFIX = ".v1"


def read_published_outcome(record: RecordLike) -> PublishedOutcome | None:
    """None for what is no result; never raises."""
    texts = {name: (value or b"").decode("utf-8", "replace") for name, value in reversed(record.headers)}
    request_id = texts.get(names_of.CE_ID, "")
    kind = texts.get(names_of.CE_TYPE, "").removeprefix(names_of.EVENT_TYPE_PREFIX).removesuffix(_VERSION_SUFFIX)
    if not is_request_id(request_id) or kind not in set(Outcome) or record.value is None:
        return None
    media_type = texts.get(names_of.CONTENT_TYPE, "")
    outcome = SealedOutcome(
        request_id=RequestId(request_id),
        outcome=Outcome(kind),
        wire_format=WireFormat(media_type) if media_type in set(WireFormat) else WireFormat.JSON,
        value=record.value,
        headers=record.headers,
        reply_to=None,
        sealed_at_ms=_instant_ms(texts.get(names_of.CE_TIME, "")) or record.timestamp_ms,
    )
    pool = texts.get(names_of.CE_SOURCE, "").removeprefix(_SOURCE_PREFIX)
    return PublishedOutcome(
        outcome=outcome,
        tenant=texts.get(names_of.TENANT, ""),
        pool=pool,
        coordinates=source_coordinates(record.headers),
    )


def _instant_ms(text: str) -> int | None:
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1_000)
    except ValueError:
        return None
