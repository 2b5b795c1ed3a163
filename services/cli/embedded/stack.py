"""The laptop stack: Kafka, Redis, a span store and our services, as processes of one async context manager.

What runs here is what runs in production, only smaller. Leaving the context drains the services (workers hand over
or finish what they run, the gateway ends its streams), then stops Redis and Kafka.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Self

import httpx

from services.cli.console import CommandFailed
from services.cli.embedded.kafka import EmbeddedKafka
from services.cli.embedded.plan import (
    Addresses,
    PoolPlan,
    StackPlan,
    shared_environment,
    worker_environment,
)
from services.cli.embedded.ports import choose_port, free_port
from services.cli.embedded.prometheus_targets import PrometheusTargets
from services.cli.embedded.redis import EmbeddedRedis
from services.cli.embedded.service_process import ServiceProcess, ServiceState
from services.cli.embedded.span_store import SpanReceiver, SpanStore
from shared.contracts.topics import topic_specifications
from shared.messaging.admin import ensure_topics
from shared.settings.kafka import KafkaSettings

WORKER_GRACE_SECONDS = 40.0
SERVICE_GRACE_SECONDS = 15.0
HOPELESS_RESTARTS = 3
Report = Callable[[str], None]


class EmbeddedStack:
    """Use as `async with EmbeddedStack(plan) as stack: await stack.wait_until_ready()`.

    `report` receives one line per thing that happened, for whoever watches.
    """

    def __init__(self, plan: StackPlan, *, report: Report = lambda line: None) -> None:
        self.plan = plan
        self.services: list[ServiceProcess] = []
        self.http_urls: list[str] = []
        self.supervisor_urls: list[str] = []
        self.addresses = Addresses(kafka="", redis="", otlp_endpoint="")
        self.span_store = SpanStore(plan.data_dir / "spans.sqlite")
        self.kafka_server: EmbeddedKafka | None = None
        self.redis_server: EmbeddedRedis | None = None
        self.targets = PrometheusTargets(plan.data_dir)
        self._report = report
        self._exit = AsyncExitStack()
        self._tasks: dict[ServiceProcess, asyncio.Task[None]] = {}
        self._workers_started = 0
        self._worker_plans: dict[ServiceProcess, PoolPlan] = {}
        self.pools = {pool.name: pool for pool in plan.pools}
        """What the next worker of each pool is started with."""
        self.changing = asyncio.Lock()
        """Held by whoever starts and stops workers of a running stack: scaling, or a rollout."""
        self.surplus: Counter[str] = Counter()
        """By pool: workers above its size, from a rollout that stopped half-way; the next one starts fewer."""
        self.candidates: set[ServiceProcess] = set()
        """Workers that are being tried: if one refuses its settings, that is not the stack's end."""

    async def __aenter__(self) -> Self:
        (self.plan.data_dir / "logs").mkdir(parents=True, exist_ok=True)
        try:
            await self._start_servers()
            await self._create_topics()
            self._start_services()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stop_services()
        await self._exit.aclose()

    @property
    def http_url(self) -> str:
        return self.http_urls[0]

    @property
    def supervisor_url(self) -> str:
        return self.supervisor_urls[0]

    @property
    def workers(self) -> list[ServiceProcess]:
        return [service for service in self.services if service.module == self.plan.worker_module]

    def service(self, name: str) -> ServiceProcess:
        return next(service for service in self.services if service.name == name)

    async def wait_until_ready(self, *, timeout_seconds: float = 180.0) -> None:
        """Return when every pool of the plan has all of its workers ready, as the gateway sees them."""
        deadline = time.monotonic() + timeout_seconds
        async with httpx.AsyncClient(timeout=2.0) as client:
            while True:
                self._raise_when_hopeless()
                missing = await self._missing(client)
                if not missing:
                    return
                if time.monotonic() > deadline:
                    raise CommandFailed(
                        f"the stack is not ready after {timeout_seconds:.0f} s: {missing}",
                        hint=f"look into {self.plan.data_dir / 'logs'}",
                    )
                await asyncio.sleep(0.1)

    def workers_of(self, pool: str) -> list[ServiceProcess]:
        """The oldest first."""
        return [service for service in self.workers if self._worker_plans[service].name == pool]

    def plan_of(self, worker: ServiceProcess) -> PoolPlan:
        """What it was started with."""
        return self._worker_plans[worker]

    def start_worker(self, pool: PoolPlan, *, is_candidate: bool = False) -> ServiceProcess:
        """One more worker of a pool; used by the plan itself, by tests, by scaling and by a rollout."""
        index = self._workers_started
        self._workers_started += 1
        name, port = f"worker-{pool.name}-{index}", free_port()
        environment = worker_environment(pool, index=index, total_workers=self.plan.total_workers, health_port=port)
        self.targets.add(name, job="worker", port=port)
        worker = self._start(name, self.plan.worker_module, environment)
        self._worker_plans[worker] = pool
        if is_candidate:
            self.candidates.add(worker)
        return worker

    async def stop_service(self, service: ServiceProcess, *, grace_seconds: float) -> int | None:
        status = await service.stop(grace_seconds=grace_seconds)
        if task := self._tasks.pop(service, None):
            await task
        self.services.remove(service)
        self.targets.remove(service.name)
        self.candidates.discard(service)
        self._worker_plans.pop(service, None)
        return status

    async def _start_servers(self) -> None:
        plan = self.plan
        receiver = await self._exit.enter_async_context(SpanReceiver(self.span_store))
        kafka, redis = plan.kafka, plan.redis
        if redis is None:
            self.redis_server = await self._exit.enter_async_context(
                EmbeddedRedis(
                    data_directory=plan.data_dir / "redis",
                    port=choose_port(plan.redis_port),
                    appendonly=True,  # Kafka remembers across a restart, so the ledger does too
                )
            )
            redis = self.redis_server.url
            self._report(f"Redis listens on {redis}")
        if kafka is None:
            self.kafka_server = await self._exit.enter_async_context(
                EmbeddedKafka(plan.data_dir / "kafka", port=choose_port(plan.kafka_port), progress=self._report)
            )
            kafka = self.kafka_server.bootstrap_servers
            self._report(f"Apache Kafka listens on {kafka}")
        self.addresses = Addresses(kafka=kafka, redis=redis, otlp_endpoint=receiver.endpoint)

    async def _create_topics(self) -> None:
        environment = shared_environment(self.plan, self.addresses)
        settings = KafkaSettings(
            bootstrap_servers=self.addresses.kafka,
            request_partitions=self.plan.request_partitions,
            topic_prefix=environment.get("PENSTOCK_KAFKA_TOPIC_PREFIX", KafkaSettings().topic_prefix),
        )
        wanted = topic_specifications(
            settings.topic_names,
            pools=tuple(pool.name for pool in self.plan.pools),
            request_partitions=settings.request_partitions,
            max_message_bytes=settings.max_message_bytes,
        )
        await ensure_topics(settings, wanted)

    def _start_services(self) -> None:
        promised: set[int] = set()
        for index in range(self.plan.supervisors):
            port = choose_port(self.plan.supervisor_port + index if self.plan.supervisor_port else 0, taken=promised)
            promised.add(port)
            self.supervisor_urls.append(f"http://127.0.0.1:{port}")
            self.targets.add(f"supervisor-{index}", job="supervisor", port=port)
            self._start(
                f"supervisor-{index}",
                "services.supervisor",
                {
                    "PENSTOCK_SUPERVISOR_PORT": str(port),
                    "PENSTOCK_SUPERVISOR_JAEGER_URL": self.addresses.otlp_endpoint,
                },
            )
        for index in range(self.plan.gateways):
            port = choose_port(self.plan.http_port + index if self.plan.http_port else 0, taken=promised)
            promised.add(port)
            self.http_urls.append(f"http://127.0.0.1:{port}")
            self.targets.add(f"gateway-{index}", job="gateway", port=port)
            self._start(f"gateway-{index}", "services.gateway", {"PENSTOCK_GATEWAY_PORT": str(port)})
        for pool in self.plan.pools:
            for _ in range(pool.workers):
                self.start_worker(pool)

    def _start(self, name: str, module: str, environment: dict[str, str]) -> ServiceProcess:
        service = ServiceProcess(
            name=name,
            module=module,
            environment={
                **shared_environment(self.plan, self.addresses),
                "PENSTOCK_TELEMETRY_SERVICE_INSTANCE": name,
                **environment,
            },
            log_file=self.plan.data_dir / "logs" / f"{name}.log",
            on_change=self._service_changed,
        )
        self.services.append(service)
        self._tasks[service] = asyncio.create_task(service.keep_running(), name=f"keep {name} running")
        return service

    async def _stop_services(self) -> None:
        """Workers first: while they drain, the gateway still delivers what they finish."""
        groups = ((self.plan.worker_module, WORKER_GRACE_SECONDS), ("services.gateway", SERVICE_GRACE_SECONDS))
        for module, grace in (*groups, ("services.supervisor", SERVICE_GRACE_SECONDS)):
            stopping = [service for service in self.services if service.module == module]
            await asyncio.gather(*(service.stop(grace_seconds=grace) for service in stopping))
        await asyncio.gather(*self._tasks.values())
        self._tasks.clear()

    async def _missing(self, client: httpx.AsyncClient) -> str:
        try:
            answers = [await client.get(f"{url}/readyz") for url in self.http_urls]
            fleet = (await client.get(f"{self.supervisor_url}/fleet")).json()
        except (httpx.HTTPError, ValueError) as error:
            return f"services do not answer yet ({type(error).__name__})"
        if unready := [answer.text for answer in answers if answer.status_code != 200]:
            return unready[0]
        ready = [worker for worker in fleet["workers"] if worker["state"] == "ready"]
        if len(ready) < len(self.workers):
            return f"{len(ready)} of {len(self.workers)} workers are ready"
        return ""

    def _raise_when_hopeless(self) -> None:
        for service in self.services:
            if service.state is ServiceState.REFUSED or service.restarts >= HOPELESS_RESTARTS:
                what = "refused its settings" if service.state is ServiceState.REFUSED else "dies again and again"
                raise CommandFailed(
                    f"{service.name} {what}: {service.last_log_lines(1)}", hint=f"its log is {service.log_file}"
                )

    def _service_changed(self, service: ServiceProcess, note: str) -> None:
        self._report(f"{service.name}: {service.state.value} {note}".rstrip())
