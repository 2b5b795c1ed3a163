"""The gateway's parts, wired, as the routes use them. Built by `application.py`; decides nothing itself."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from services.gateway.authentication import Authenticator
from services.gateway.event_stream import EventStream, StreamTimes
from services.gateway.fleet_directory import FleetDirectory
from services.gateway.following import Following, Followings
from services.gateway.keyring import Keyring
from services.gateway.ports import GatewayLedger
from services.gateway.readiness import Readiness, Vitals
from services.gateway.settings import GatewaySettings
from services.gateway.stream_shapes import StreamShape, StreamShapes
from services.gateway.submission import Submissions
from shared.contracts.fleet import Heartbeat
from shared.contracts.identifiers import RequestId
from shared.openai.streaming import StreamRenderer
from shared.resilience.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    settings: GatewaySettings
    clock: Clock
    ledger: GatewayLedger
    directory: FleetDirectory
    observe: Callable[[Heartbeat], None]
    """Tells every part that wants to know of a worker's heartbeat."""
    authenticator: Authenticator
    keyring: Keyring
    submissions: Submissions
    followings: Followings
    shapes: StreamShapes
    readiness: Readiness
    vitals: Vitals

    def begin_drain(self) -> None:
        """Take nothing new and say so on /readyz; what is open goes on."""
        self.vitals.is_stopping = True
        self.submissions.is_stopping = True

    def end_streams(self) -> None:
        """The drain's bound is reached: open responses end with a note. Their requests go on."""
        self.followings.router.end()

    def renderer(self, request_id: RequestId, shape: StreamShape) -> StreamRenderer:
        return StreamRenderer(shape.request, request_id, shape.request.model or shape.pool, shape.created_seconds)

    def event_stream(self, following: Following, shape: StreamShape, renderer: StreamRenderer) -> EventStream:
        return EventStream(
            following,
            renderer,
            pool=shape.pool,
            times=StreamTimes(
                first_event_seconds=self.settings.first_event_seconds, ping_seconds=self.settings.ping_seconds
            ),
            clock=self.clock,
        )


def gateway_of(request: Request) -> Gateway:
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway
