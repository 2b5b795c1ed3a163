"""Whether this gateway can serve right now, part by part, and why not. Asks; changes nothing."""

import asyncio
from dataclasses import dataclass, field

from services.gateway.fleet_directory import FleetDirectory
from services.gateway.keyring import Keyring
from services.gateway.ports import GatewayLedger
from services.gateway.request_publisher import RequestPublisher
from shared.contracts.errors import PlatformError

_PING_SECONDS = 1.0


@dataclass(slots=True)
class Vitals:
    """What the background loops and the drain say of themselves."""

    is_stopping: bool = False
    is_listening: bool = False
    dead_loops: list[str] = field(default_factory=list)


class Readiness:
    def __init__(
        self,
        *,
        ledger: GatewayLedger,
        publisher: RequestPublisher,
        directory: FleetDirectory,
        keyring: Keyring,
        vitals: Vitals,
        default_pool: str,
    ) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._directory = directory
        self._keyring = keyring
        self._vitals = vitals
        self._default_pool = default_pool

    @property
    def is_alive(self) -> bool:
        """A dead loop does not come back: the process has to be started again."""
        return not self._vitals.dead_loops

    async def problems(self) -> dict[str, str]:
        """What is wrong, by part; empty when requests are welcome."""
        problems: dict[str, str] = {}
        if self._vitals.is_stopping:
            problems["lifecycle"] = "the gateway is stopping"
        if self._vitals.dead_loops:
            problems["loops"] = f"ended: {', '.join(self._vitals.dead_loops)}"
        if not self._vitals.is_listening:
            problems["streams"] = "the ledger's channel is not subscribed"
        ledger = await self._ledger_problem()
        if ledger is not None:
            problems["ledger"] = ledger
        if not self._keyring.is_complete:
            problems["keys"] = "the API keys are not read yet"
        if self._publisher.has_failed_lately:
            problems["producer"] = "the last request could not be published"
        if not self._directory.is_heard:
            problems["heartbeats"] = "no heartbeat was heard lately"
        elif not self._directory.ready_workers(self._default_pool):
            problems["workers"] = f"no worker of the pool {self._default_pool} is ready"
        return problems

    async def _ledger_problem(self) -> str | None:
        try:
            await asyncio.wait_for(self._ledger.ping(), _PING_SECONDS)
        except PlatformError as error:
            return error.message
        except TimeoutError:
            return f"no answer within {_PING_SECONDS:g} s"
        return None
