"""Copies of records for other workers, or for later: on the resume topic and on the delay topics.

The claim is released first, then the copy is written and acknowledged, only then is the record done here: a crash in
between leaves the record uncommitted, and it is delivered again. A record that keeps its key's order is never done by
a copy: it holds its place in the partition until its request is finished, whoever runs it. Decides nothing.
"""

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from services.worker.retries import Retry
from services.worker.work import Work
from shared.contracts.errors import PlatformError
from shared.contracts.identifiers import ClaimToken, RequestId
from shared.contracts.topics import TopicNames
from shared.openai.envelope import copy_headers

_log = structlog.get_logger(__name__)


class Claims(Protocol):
    """Raises `LedgerUnavailable`."""

    async def release(self, request_id: RequestId, token: ClaimToken) -> bool: ...


class Copies(Protocol):
    """Returns once acknowledged. Raises `BrokerUnavailable` or `OutcomeTooLarge`."""

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int | None = None,
    ) -> object: ...


class HandingOn:
    def __init__(
        self,
        claims: Claims,
        copies: Copies,
        *,
        names: TopicNames,
        pool: str,
        request_partitions: int,
        assignment: Callable[[], Sequence[tuple[str, int]]],
    ) -> None:
        self._claims = claims
        self._copies = copies
        self._names = names
        self._pool = pool
        self._request_partitions = request_partitions
        self._assignment = assignment

    async def hand_over(self, work: Work) -> None:
        """This worker leaves: whoever reads the resume topic goes on from the last token."""
        try:
            if work.token is not None:
                await self._claims.release(work.request_id, work.token)
            # Into a partition of another worker where there is one: it need not wait until we have left the group.
            others = self._resume_partitions_of_others()
            await self._copy_to_resume(work, partition=random.choice(others) if others else None)
        except PlatformError as error:
            # Nobody is worse off: the lease ends, the offset is not committed, the record is delivered again.
            _log.warning("hand_over_failed", request_id=work.request_id, error=error.message)

    async def pass_on(self, work: Work) -> bool:
        """To a resume partition that is not ours. True: the record is done; False: claim it again."""
        others = self._resume_partitions_of_others()
        if not others or work.has_been_passed_on:
            return False
        try:
            await self._copy_to_resume(work, partition=random.choice(others))
        except PlatformError as error:
            _log.warning("not_passed_on", request_id=work.request_id, error=error.message)
            return False
        work.has_been_passed_on = True
        return not work.envelope.is_ordered

    async def retry_later(self, work: Work, retry: Retry) -> bool:
        """By the delay topic; nobody holds the request meanwhile. False: it has to wait here."""
        if work.envelope.is_ordered:
            return False
        headers = copy_headers(
            work.envelope,
            work.delivery.record.headers,
            attempt=work.envelope.attempt + 1,
            retries=retry.failures,
            not_before_ms=retry.not_before_ms,
        )
        try:
            await self._send(work, self._names.retry(self._pool, retry.delay_seconds), headers)
        except PlatformError as error:
            _log.warning("retry_waits_here", request_id=work.request_id, error=error.message)
            return False
        return True

    def _resume_partitions_of_others(self) -> list[int]:
        topic = self._names.resume(self._pool)
        ours = {partition for name, partition in self._assignment() if name == topic}
        return sorted(set(range(self._request_partitions)) - ours)

    async def _copy_to_resume(self, work: Work, *, partition: int | None) -> None:
        headers = copy_headers(work.envelope, work.delivery.record.headers, attempt=work.envelope.attempt + 1)
        await self._send(work, self._names.resume(self._pool), headers, partition=partition)

    async def _send(
        self, work: Work, topic: str, headers: Sequence[tuple[str, bytes | None]], *, partition: int | None = None
    ) -> None:
        await self._copies.send(
            topic,
            key=work.request_id.encode(),
            value=work.delivery.record.value,
            headers=headers,
            partition=partition,
        )
        if not work.envelope.is_ordered:
            work.delivery.done()
