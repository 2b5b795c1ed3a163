"""What a tenant's sequences have said lately, to be found again by its next ones. Bounded; tenants never meet.

One tenant's text must not make another's faster: how long an answer takes would tell what others asked.
"""

from collections import OrderedDict

from services.worker.engine.speculation.ngram_index import NgramIndex

_SIZES = (4, 3)  # fewer tokens say nothing of another text
_MOST_TENANTS = 64


class SharedText:
    LEAST_TOKENS = min(_SIZES)

    def __init__(self, max_tokens: int) -> None:
        """`max_tokens` of each tenant; 0 remembers nothing."""
        self._max_tokens = max_tokens
        self._tenants: OrderedDict[str, tuple[list[int], NgramIndex]] = OrderedDict()

    def add(self, tenant: str, token_ids: list[int]) -> None:
        if self._max_tokens == 0:
            return
        text, index = self._tenants.get(tenant, ([], NgramIndex(_SIZES)))
        text.extend(token_ids)
        if len(text) > self._max_tokens:
            # Halved, so that an index is made anew once for many texts.
            text, index = text[-(self._max_tokens // 2) :], NgramIndex(_SIZES)
        index.extend(text)
        self._tenants[tenant] = text, index
        self._tenants.move_to_end(tenant)
        if len(self._tenants) > _MOST_TENANTS:
            self._tenants.popitem(last=False)

    def continuation(self, tenant: str, token_ids: list[int], num_tokens: int) -> tuple[int, ...]:
        text, index = self._tenants.get(tenant, ([], None))
        match = None if index is None else index.find(token_ids)
        return () if match is None else tuple(text[match.place : match.place + num_tokens])
