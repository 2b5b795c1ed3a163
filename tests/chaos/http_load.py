"""Streams over HTTP that are read to their end: who loses its gateway goes on at another one, from the last event id.

Knows the documented interface only: `Idempotency-Key`, `x-request-id`, `Last-Event-ID`, `Prefer: respond-async`.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence

import httpx

from tests.chaos.asks import Ask

_PAUSE_SECONDS = 0.25
_TIMES = httpx.Timeout(40.0, connect=2.0)


class HttpLoad:
    def __init__(self, urls: Sequence[str], rng: random.Random, *, patience_seconds: float) -> None:
        self._urls = list(urls)
        self._rng = rng
        self._patience_seconds = patience_seconds
        self._client = httpx.AsyncClient(timeout=_TIMES, limits=httpx.Limits(max_connections=2_000))

    async def close(self) -> None:
        await self._client.aclose()

    async def stream(self, ask: Ask) -> None:
        """Until the end, an unacceptable answer, or the end of patience (then the ask stays without an end)."""
        first = self._rng.randrange(len(self._urls))
        last_event_id: list[str] = []
        give_up_at = time.monotonic() + self._patience_seconds
        for attempt in range(10_000):
            if ask.ended_at is not None or ask.problems or time.monotonic() > give_up_at:
                return
            url = self._urls[(first + attempt) % len(self._urls)]
            if attempt:
                ask.num_reconnects += ask.request_id is not None
                await asyncio.sleep(_PAUSE_SECONDS)
            try:
                await self._read(ask, url, last_event_id)
            except httpx.TransportError:
                continue

    async def _read(self, ask: Ask, url: str, last_event_id: list[str]) -> None:
        if ask.request_id is None:
            request = self._client.build_request(
                "POST",
                f"{url}/v1/chat/completions",
                json={**ask.body, "stream": True},
                headers={"Idempotency-Key": ask.name},
            )
        else:
            headers = {"Last-Event-ID": last_event_id[-1]} if last_event_id else {}
            request = self._client.build_request("GET", f"{url}/v1/requests/{ask.request_id}/stream", headers=headers)
        response = await self._client.send(request, stream=True)
        try:
            if response.status_code >= 500:
                return
            if response.status_code != 200:
                body = (await response.aread())[:200]
                ask.problems.append(f"{request.method} answered {response.status_code}: {body!r}")
                return
            ask.request_id = response.headers["x-request-id"]
            ask.accepted_at = ask.accepted_at or time.monotonic()
            await self._read_events(ask, response, last_event_id)
        finally:
            await response.aclose()

    async def _read_events(self, ask: Ask, response: httpx.Response, last_event_id: list[str]) -> None:
        identifier: str | None = None
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                identifier = line[4:]
            elif line == "data: [DONE]":
                ask.ended_at = time.monotonic()
                return
            elif line.startswith("data: "):
                payload = json.loads(line[6:])
                if "error" in payload:
                    if "resume it" not in payload["error"]["message"]:
                        ask.problems.append(f"error event: {payload['error']}")
                    return
                _take(ask, payload)
                if identifier is not None:
                    last_event_id[:] = [identifier]
                    identifier = None

    async def await_result(self, ask: Ask) -> None:
        """`Prefer: respond-async`, then GET until there is a result."""
        first = self._rng.randrange(len(self._urls))
        give_up_at = time.monotonic() + self._patience_seconds
        for attempt in range(100_000):
            if ask.ended_at is not None or ask.problems or time.monotonic() > give_up_at:
                return
            with contextlib.suppress(httpx.TransportError):
                await self._ask_or_look(ask, self._urls[(first + attempt) % len(self._urls)])
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask_or_look(self, ask: Ask, url: str) -> None:
        if ask.request_id is None:
            headers = {"Idempotency-Key": ask.name, "Prefer": "respond-async"}
            response = await self._client.post(f"{url}/v1/chat/completions", json=ask.body, headers=headers)
        else:
            response = await self._client.get(f"{url}/v1/requests/{ask.request_id}")
        if response.status_code >= 500:
            return
        if response.status_code not in (200, 202):
            ask.problems.append(f"answered {response.status_code}: {response.text[:200]}")
            return
        ask.request_id = response.headers["x-request-id"]
        ask.accepted_at = ask.accepted_at or time.monotonic()
        if (state := response.json()).get("result"):
            ask.texts = [choice["message"]["content"] for choice in state["result"]["choices"]]
            ask.ended_at = time.monotonic()


def _take(ask: Ask, payload: dict[str, object]) -> None:
    for choice in payload["choices"]:  # type: ignore[attr-defined]
        text = choice["delta"].get("content") or ""
        if text:
            ask.texts[choice["index"]] += text
            ask.arrivals.append(time.monotonic())
        if choice["finish_reason"]:
            ask.finish_reasons[choice["index"]] = choice["finish_reason"]
