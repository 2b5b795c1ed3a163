"""What a stream has to look like, for clients that come back to it: the request without what was said in it.

Remembered for the requests of this gateway; for others the request's record is read again from Kafka.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from shared.contracts.errors import RequestNotFound, TransientError
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Coordinates, InferenceRequest, Prompt
from shared.contracts.tools import Tool
from shared.ledger.records import RequestRecord, RequestState

_MOST_REMEMBERED = 16_384
_NO_PROMPT = Prompt(text="")

RequestLookup = Callable[[str, Coordinates], Awaitable[InferenceRequest | None]]
"""The request of a pool at these coordinates, or None when its record is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamShape:
    """`request` has its choices and options, and no text of its caller."""

    request: InferenceRequest
    pool: str
    created_seconds: int


def shape_of(request: InferenceRequest, *, pool: str, created_seconds: int) -> StreamShape:
    bare = replace(
        request,
        messages=(),
        prompts=(_NO_PROMPT,) * len(request.prompts),
        tools=tuple(Tool(name=tool.name) for tool in request.tools),
        grammar=None,
    )
    return StreamShape(request=bare, pool=pool, created_seconds=created_seconds)


class StreamShapes:
    """Newest first to stay; bounded."""

    def __init__(self, lookup: RequestLookup) -> None:
        self._lookup = lookup
        self._shapes: OrderedDict[RequestId, StreamShape] = OrderedDict()

    def remember(self, request_id: RequestId, shape: StreamShape) -> None:
        self._shapes[request_id] = shape
        if len(self._shapes) > _MOST_REMEMBERED:
            self._shapes.popitem(last=False)

    async def find(self, record: RequestRecord) -> StreamShape:
        """Raises `RequestNotFound` when nobody can say any more what the stream looked like."""
        known = self._shapes.get(record.request_id)
        if known is not None:
            return known
        request = None
        if record.coordinates is not None:
            request = await self._lookup(record.pool, record.coordinates)
        if record.coordinates is None and record.state is RequestState.WAITING:
            raise TransientError("no worker has taken the request yet, and another gateway accepted it; ask again")
        if request is None:
            raise RequestNotFound("the request's record is not there (yet, or any more); its result may be")
        shape = shape_of(request, pool=record.pool, created_seconds=record.registered_at_ms // 1_000)
        self.remember(record.request_id, shape)
        return shape
