"""Wires the supervisor and runs its loops. The only place of the service that knows all of its parts.

    heartbeats ──> FleetWatch <── leases, every 200 ms ──> lost incarnations ──> Reassignment (leader only)
                       └──> fleet.events (leader only), GET /fleet

Start order: HTTP, ledger loops, Kafka when it answers. Stop order: loops, resign, HTTP.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import structlog
import uvicorn

from services.supervisor.admin_api import Knowledge, NoSuchWorker, NotTheLeader, build_admin_api
from services.supervisor.dismissals import Dismissals, Leases
from services.supervisor.failure_detector import DetectionRules, LeaseGrace
from services.supervisor.fleet_watch import FleetWatch
from services.supervisor.heirs import Heirs
from services.supervisor.kafka_edge import KafkaEdge, OpenEdge, kafka_edge
from services.supervisor.leadership import Elections, Leadership
from services.supervisor.lost_records import LostRecords, Seals
from services.supervisor.policy_desk import PolicyDesk
from services.supervisor.policy_rules import policy_rules
from services.supervisor.reassignment import Claims, Reassignment
from services.supervisor.request_traces import RequestTraces
from services.supervisor.settings import SupervisorSettings
from shared.contracts.errors import LedgerUnavailable
from shared.contracts.fleet import FleetCommand, FleetCommandKind, FleetEvent, FleetEventKind, Heartbeat
from shared.contracts.identifiers import Incarnation, WorkerId, worker_of
from shared.ledger.ledger import Ledger
from shared.ledger.records import Epoch
from shared.resilience.clock import Clock, SystemClock
from shared.resilience.lifecycle import run_periodically, run_persistently
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from shared.settings.slo import SloSettings
from shared.telemetry.setup import default_instance

logger = structlog.get_logger(__name__)

LEDGER_STALE_SECONDS = 3.0
_EVENTS_INTERVAL_SECONDS = 0.1
_DISMISS_INTERVAL_SECONDS = 0.5
_POLICY_INTERVAL_SECONDS = 0.5
_MOST_COMMANDS = 100


class SupervisorLedger(Claims, Elections, Leases, Seals, Protocol):
    """The part of the ledger that a supervisor uses. Every method raises LedgerUnavailable."""

    async def epoch(self) -> Epoch | None: ...


class _Server(uvicorn.Server):
    """Leaves signals to the service: uvicorn would end the process in the middle of the stop order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Supervisor:
    """`await run(stopping)` once; `address` is known when it has started."""

    def __init__(
        self,
        settings: SupervisorSettings,
        *,
        name: str,
        ledger: SupervisorLedger,
        open_edge: OpenEdge,
        grace: LeaseGrace,
        clock: Clock,
        objectives: SloSettings,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._open_edge = open_edge
        self._clock = clock
        self._name = name
        self.watch = FleetWatch(
            clock=clock,
            rules=DetectionRules(
                silent_after_seconds=settings.silent_after_seconds,
                deaf_after_seconds=settings.silent_after_seconds / 2,
            ),
            kept_events=settings.kept_events,
            forget_after_seconds=settings.forget_after_seconds,
        )
        self.desk = PolicyDesk(
            policy_rules(settings), objectives=objectives, name=name, clock=clock, note=self._note_of
        )
        self._commands: deque[FleetCommand] = deque(maxlen=_MOST_COMMANDS)
        self.leadership = Leadership(ledger, ttl_ms=settings.leader_ttl_ms, clock=clock)
        self._grace = grace
        self._looked_at: float | None = None
        self._are_leases_trusted = False
        self._has_kafka = False
        self._heirs = Heirs()
        self._takeover_due = asyncio.Event()
        self.address = ""

    def problems(self) -> list[str]:
        """Why `/readyz` says no."""
        problems = []
        now = self._clock.monotonic()
        if self._looked_at is None or now - self._looked_at > LEDGER_STALE_SECONDS:
            problems.append("the ledger has not answered lately")
        if not self._has_kafka:
            problems.append("Kafka is not connected yet")
        return problems

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set. Nothing depends on a clean end; it only makes the next leader start sooner."""
        async with self._serving():
            logger.info("supervisor started", address=self.address)
            async with asyncio.TaskGroup() as loops:
                tasks = [loops.create_task(loop) for loop in self._loops()]
                await stopping.wait()
                for task in tasks:
                    task.cancel()
            with contextlib.suppress(LedgerUnavailable):
                await self.leadership.resign()
        logger.info("supervisor stopped")

    def _loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        clock, settings = self._clock, self._settings
        return (
            run_periodically("leadership", settings.leader_ttl_ms / 3_000, self._campaign, clock=clock),
            run_periodically("watch", settings.watch_interval_ms / 1_000, self.look, clock=clock),
            run_persistently("kafka", self._work_with_kafka, clock=clock),
        )

    async def _campaign(self) -> None:
        if await self.leadership.campaign():
            self._note(FleetEventKind.SUPERVISOR_ELECTED, None, f"fence {self.leadership.fence}")

    async def look(self) -> None:
        """One look at the leases and one judgement. Raises LedgerUnavailable (silence is still judged)."""
        started_at = self._clock.monotonic()
        try:
            lost = await self._ledger.lost_incarnations()
            epoch = await self._ledger.epoch()
            suspected = self.desk.suspected(self.watch.view)
            silent = list({*self.watch.silent(), *suspected})
            unleased = set(await self._ledger.without_lease(silent)) if silent else set[Incarnation]()
        except LedgerUnavailable:
            self.watch.judge(())
            raise
        self._looked_at = self._clock.monotonic()
        self._are_leases_trusted = self._grace.looked(
            started_at=started_at, now=self._looked_at, epoch=None if epoch is None else epoch.name
        )
        is_trusted = self._are_leases_trusted
        self.watch.judge(
            lost if is_trusted else (),
            leased=set(silent) - unleased,
            unleased=unleased if is_trusted else (),
            suspected=suspected,
        )
        if lost and self._are_leases_trusted:
            self._takeover_due.set()

    async def _work_with_kafka(self) -> None:
        try:
            async with self._open_edge(self._hear) as edge, asyncio.TaskGroup() as loops:
                self._has_kafka = True
                reassignment = Reassignment(
                    self._ledger,
                    edge.copies,
                    edge.fetch_record,
                    unrunnable=LostRecords(self._ledger, edge.copies, names=edge.names, now_ms=self._clock.now_ms),
                    place=self._place,
                    names=edge.names,
                    cluster=edge.cluster,
                    concurrency=self._settings.takeover_concurrency,
                )
                loops.create_task(
                    run_persistently("takeover", lambda: self._take_over(reassignment), clock=self._clock)
                )
                dismissals = Dismissals(self._ledger, edge.members, names=edge.names, monotonic=self._clock.monotonic)
                loops.create_task(
                    run_periodically(
                        "dismissals", _DISMISS_INTERVAL_SECONDS, lambda: self._dismiss(dismissals), clock=self._clock
                    )
                )
                loops.create_task(
                    run_periodically(
                        "policies", _POLICY_INTERVAL_SECONDS, lambda: self._carry_out(edge), clock=self._clock
                    )
                )
                loops.create_task(
                    run_periodically("events", _EVENTS_INTERVAL_SECONDS, lambda: self._publish(edge), clock=self._clock)
                )
        finally:
            self._has_kafka = False

    def _place(self, pool: str, topic: str) -> int | None:
        members = self.watch.view.members.values()
        return self._heirs.choose(members, topic, pool=pool, without=self.watch.leaseless)

    async def _take_over(self, reassignment: Reassignment) -> None:
        """Whenever a look found lost incarnations that own requests: hand these on. Raises LedgerUnavailable."""
        while True:
            await self._takeover_due.wait()
            self._takeover_due.clear()
            if not self.leadership.is_leader:
                continue
            await reassignment.resend()
            lost = sorted(self.watch.leaseless)
            counts = await asyncio.gather(*map(reassignment.take_over, lost))
            for incarnation, count in zip(lost, counts, strict=True):
                if count:
                    self._note(FleetEventKind.REQUESTS_REASSIGNED, incarnation, f"{count} requests")
            if reassignment.num_unsent:
                self._takeover_due.set()
                await self._clock.sleep(self._settings.watch_interval_ms / 1_000)

    async def _dismiss(self, dismissals: Dismissals) -> None:
        """Let go of what dead workers hold in Kafka. Raises LedgerUnavailable and BrokerUnavailable."""
        looked_at = self._looked_at
        is_fresh = looked_at is not None and self._clock.monotonic() - looked_at < _DISMISS_INTERVAL_SECONDS
        if self.leadership.is_leader and self._are_leases_trusted and is_fresh:
            await dismissals.sweep({member.heartbeat.pool for member in self.watch.view.members.values()})

    def _hear(self, heartbeat: Heartbeat) -> None:
        self.watch.hear(heartbeat)
        self.desk.hear(heartbeat)

    async def _carry_out(self, edge: KafkaEdge) -> None:
        """Decide, and send the commands that follow. Raises BrokerUnavailable; what was not sent is decided again."""
        if not self.leadership.is_leader:
            self._commands.clear()
            return
        while self._commands:
            await edge.publish_command(self._commands[0])
            self._commands.popleft()
        for decision in self.desk.decide(self.watch.view):
            await edge.publish_command(self._command(decision.kind, decision.worker_id, decision.reason))
        self.desk.watch_budgets()
        staffed = {member.heartbeat.pool for member in self.watch.view.living()}
        deserted = [pool for pool in self.desk.bounds if pool not in staffed]
        self.desk.scale(self.watch.view, {pool: await edge.backlog(pool) for pool in deserted})

    def order(self, kind: FleetCommandKind, worker_id: WorkerId, reason: str) -> None:
        """An operator's word about a living worker. Raises `NotTheLeader` or `NoSuchWorker`."""
        member = self.watch.view.members.get(worker_id)
        if not self.leadership.is_leader:
            raise NotTheLeader("another supervisor leads; ask that one")
        if member is None or member.is_gone:
            raise NoSuchWorker(f"no worker {worker_id} is alive")
        if kind is FleetCommandKind.DRAIN:
            self._commands.append(self._command(kind, worker_id, reason))
            return
        self.desk.quarantine.order(
            worker_id,
            member.heartbeat.incarnation,
            is_quarantined=kind is FleetCommandKind.QUARANTINE,
            now=self._clock.monotonic(),
        )

    def _command(self, kind: FleetCommandKind, worker_id: WorkerId, reason: str) -> FleetCommand:
        return FleetCommand(kind=kind, worker_id=worker_id, issued_at_ms=self._clock.now_ms(), reason=reason)

    async def _publish(self, edge: KafkaEdge) -> None:
        """Tell the world, in order. Raises BrokerUnavailable; what was not told is told next time."""
        if not self.leadership.is_leader:
            self.watch.drop_unpublished()
            return
        while (event := self.watch.next_unpublished()) is not None:
            await edge.publish_event(event)
            self.watch.published(event)

    def _note(self, kind: FleetEventKind, incarnation: Incarnation | None, detail: str) -> None:
        worker_id = WorkerId(self._name) if incarnation is None else worker_of(incarnation)
        self._note_of(kind, worker_id, incarnation, detail)

    def _note_of(self, kind: FleetEventKind, worker_id: WorkerId, incarnation: Incarnation | None, detail: str) -> None:
        self.watch.note(
            FleetEvent(
                kind=kind,
                worker_id=worker_id,
                incarnation=incarnation,
                occurred_at_ms=self._clock.now_ms(),
                detail=detail,
            )
        )

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        key = self._settings.admin_key
        knowledge = Knowledge(
            name=self._name,
            watch=self.watch,
            leadership=self.leadership,
            clock=self._clock,
            problems=self.problems,
            desk=self.desk,
            order=self.order,
            admin_key=None if key is None else key.get_secret_value(),
            traces=RequestTraces(self._settings.jaeger_url),
        )
        listener = socket.create_server((self._settings.host, self._settings.port))
        host, port = listener.getsockname()[:2]
        self.address = f"http://{host}:{port}"
        server = _Server(
            uvicorn.Config(
                build_admin_api(knowledge),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=2,
            )
        )
        async with AsyncExitStack() as stack:
            stack.callback(listener.close)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            group.create_task(server.serve(sockets=[listener]))
            try:
                yield
            finally:
                server.should_exit = True


@asynccontextmanager
async def build_supervisor(
    settings: SupervisorSettings,
    kafka: KafkaSettings,
    redis: RedisSettings,
    *,
    clock: Clock | None = None,
    ledger: SupervisorLedger | None = None,
    open_edge: OpenEdge | None = None,
    slo: SloSettings | None = None,
) -> AsyncIterator[Supervisor]:
    """A supervisor with everything it needs; what is None is the real thing, opened and closed here."""
    name = settings.name or default_instance()
    async with AsyncExitStack() as stack:
        if ledger is None:
            ledger = await stack.enter_async_context(Ledger(redis))
        yield Supervisor(
            settings,
            name=name,
            ledger=ledger,
            open_edge=open_edge or kafka_edge(kafka, client_id=f"penstock-supervisor-{name}"),
            grace=LeaseGrace(
                longest_gap_seconds=redis.lease_ttl_ms / 1_000,
                grace_seconds=2 * redis.lease_refresh_ms / 1_000,
            ),
            clock=clock or SystemClock(),
            objectives=slo or SloSettings(),
        )
