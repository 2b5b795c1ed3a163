"""The response of a request without `stream`: the sealed outcome's bytes as they are. No pings are possible here."""

from starlette.responses import Response

from services.gateway.error_responses import error_response, json_response, sealed_error_code, sealed_error_response
from services.gateway.followed_response import FollowedResponse
from services.gateway.http_boundary import Exchange, Receive, Scope, Send
from shared.contracts.errors import PlatformError
from shared.contracts.events import Outcome, SealedOutcome
from shared.openai.outcomes import sealed_json


def outcome_response(sealed: SealedOutcome) -> Response:
    """The OpenAI object of an outcome with the status of its error, if it is one."""
    value = sealed_json(sealed)
    return json_response(value) if sealed.outcome is Outcome.COMPLETED else sealed_error_response(value)


class AwaitedOutcome(FollowedResponse):
    async def answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._response(exchange)
        if response is not None:
            await response(scope, receive, send)

    async def _response(self, exchange: Exchange) -> Response | None:
        try:
            while True:
                progress = await self._following.next()
                if progress.terminal is not None:
                    if progress.terminal.outcome is not Outcome.COMPLETED:
                        exchange.error_code = sealed_error_code(sealed_json(progress.terminal))
                    return outcome_response(progress.terminal)
                if self._following.is_disconnected:
                    return None
        except PlatformError as error:
            exchange.error_code = error.code
            return error_response(error)
