"""A response that lasts as long as a request is followed, and notices when its client hangs up.

The base of the two ways of answering: `event_stream.py` and `awaited_outcome.py`. It sends nothing itself.
"""

import asyncio

from starlette.responses import Response

from services.gateway.following import Following
from services.gateway.http_boundary import Exchange, Receive, Scope, Send, exchange_of


class FollowedResponse(Response):
    """Raw ASGI: one extra task per request watches for the disconnect, none per chunk."""

    def __init__(self, following: Following) -> None:
        # Not calling Response.__init__: there is no body and no header before the first event.
        self.background = None
        self.status_code = 200
        self._following = following

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        exchange.request_id = self._following.request_id
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch(receive))
                try:
                    await self.answer(exchange, scope, receive, send)
                finally:
                    watch.cancel()
        finally:
            self._following.close()

    async def answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole response, or stop when the following is disconnected."""
        raise NotImplementedError

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._following.disconnected()
