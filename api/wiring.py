"""The composition root: the only place that knows every room and every adapter, and joins them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from api.programs import Programs
from core.clock import Clock
from core.errors import Fault, Invalid, Unavailable
from core.journal import RunWrite
from engine.attempt import Attempts
from engine.expression.evaluator import Evaluator
from engine.node.process import NodeProcesses
from engine.node.registry import NodeRegistry
from engine.nodes.ai import ai_nodes
from engine.nodes.ai_price import Price, parse_prices
from engine.nodes.builtin import builtin_nodes
from engine.nodes.egress import EgressPolicy
from engine.notices import Notices
from engine.performer import Performer
from engine.runner import Engine
from infra.clickhouse.client import ClickHouse, parse_target
from infra.clickhouse.insights import Insights
from infra.clickhouse.traces import TraceStore
from infra.clock import SystemClock
from infra.home import Home
from infra.llm.models import Models
from infra.metrics import Metrics
from infra.objects import Objects
from infra.postgres.api_keys import ApiKeys
from infra.postgres.audit import AuditLog
from infra.postgres.connection import create_engine, transaction
from infra.postgres.embedded import EmbeddedPostgres
from infra.postgres.idempotency import Idempotency
from infra.postgres.journal import PostgresJournal
from infra.postgres.migration import migrate
from infra.postgres.partitions import drop_partitions_before, ensure_partitions
from infra.postgres.runs import Runs
from infra.postgres.secrets import SecretKey, Secrets
from infra.postgres.workflows import Workflows
from infra.settings import Settings
from infra.shipper import TraceShipper

_log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS = 3600.0
_PARTITIONS_AHEAD = 3
_PATIENCE_SECONDS = 20.0
_TRY_AGAIN_SECONDS = 0.5
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a request may need, running.

    Attributes:
        first_key: the admin key that was made at this start, to be shown once.
    """

    settings: Settings
    clock: Clock
    engine: Engine
    evaluator: Evaluator
    registry: NodeRegistry
    programs: Programs
    notices: Notices
    journal: PostgresJournal
    workflows: Workflows
    runs: Runs
    api_keys: ApiKeys
    secrets: Secrets
    idempotency: Idempotency
    audit: AuditLog
    traces: TraceStore
    insights: Insights
    shipper: TraceShipper
    metrics: Metrics
    first_key: str | None


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Start everything in order, and stop it in the reverse order.

    Raises:
        HomeInUse: another process works in the data directory.
        Unavailable: a database does not come up.
    """
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        home = settings.home
        stack.enter_context(Home(home))
        dsn, exclusive = await _database(settings, stack)
        await _patiently(lambda: migrate(dsn))
        database = create_engine(dsn)
        stack.push_async_callback(database.dispose)
        await _patiently(lambda: _keep_house(database, clock, settings))
        objects = Objects.open(home / "objects")

        target = settings.clickhouse_url.get_secret_value() if settings.clickhouse_url else home / "clickhouse"
        traces = TraceStore(ClickHouse(parse_target(target)), settings.traces_retention_days)
        stack.push_async_callback(traces.aclose)
        await _prepare_traces(traces)
        shipper = TraceShipper(dsn, traces)
        shipper.start()
        stack.push_async_callback(shipper.aclose)

        secrets = Secrets(database, clock, _secret_key(settings))
        api_keys = ApiKeys(database, clock)
        chosen_key = settings.api_key.get_secret_value() if settings.api_key else None
        first_key = await _patiently(lambda: api_keys.ensure_first(chosen_key))
        registry = _registry(settings, clock)
        stack.push_async_callback(registry.aclose)
        evaluator = Evaluator()
        await evaluator.start()
        stack.push_async_callback(evaluator.aclose)
        processes = await stack.enter_async_context(NodeProcesses())
        performer = Performer(clock, secrets, processes)
        stack.push_async_callback(performer.aclose)

        journal = PostgresJournal(dsn, objects)
        stack.push_async_callback(journal.aclose)
        workflows = Workflows(database, clock)
        programs = Programs(workflows, registry, clock)
        notices = Notices()
        metrics = Metrics()

        def on_durable(writes: Sequence[RunWrite]) -> None:
            notices.tell(writes)
            shipper.wake()
            metrics.committed(writes)

        engine = Engine(journal, clock, Attempts(clock, evaluator, performer), programs.of_run, on_durable, exclusive)
        await _patiently(engine.start)
        stack.push_async_callback(engine.stop)
        housekeeping = asyncio.create_task(_housekeeping(database, clock, settings))
        stack.callback(housekeeping.cancel)
        yield Services(
            settings=settings,
            clock=clock,
            engine=engine,
            evaluator=evaluator,
            registry=registry,
            programs=programs,
            notices=notices,
            journal=journal,
            workflows=workflows,
            runs=Runs(database),
            api_keys=api_keys,
            secrets=secrets,
            idempotency=Idempotency(database, clock),
            audit=AuditLog(database, clock),
            traces=traces,
            insights=Insights(traces),
            shipper=shipper,
            metrics=metrics,
            first_key=first_key,
        )


async def _patiently(act: Callable[[], Awaitable[_T]]) -> _T:
    """What needs the database, as soon as it is there: it may be starting at this moment, too.

    Raises:
        Unavailable: it does not come within `_PATIENCE_SECONDS`.
    """
    for _ in range(int(_PATIENCE_SECONDS / _TRY_AGAIN_SECONDS)):
        try:
            return await act()
        except Unavailable as error:
            _log.warning("waiting for the database", detail=error.detail)
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
    return await act()


async def _database(settings: Settings, stack: AsyncExitStack) -> tuple[str, bool]:
    """The database's address, and whether no other process can be using it."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value(), False
    embedded = EmbeddedPostgres(settings.home)
    dsn = await embedded.start()
    stack.push_async_callback(embedded.stop)
    return dsn, True


async def _prepare_traces(traces: TraceStore) -> None:
    try:
        await traces.prepare()
    except Unavailable as error:
        # Runs do not need it: traces wait in the journal until it is back.
        _log.warning("the trace store is away", detail=error.detail)


def _secret_key(settings: Settings) -> SecretKey:
    if settings.secret_key is not None:
        return SecretKey.from_text(settings.secret_key.get_secret_value())
    return SecretKey.from_file(settings.home / "secret.key")


def _registry(settings: Settings, clock: Clock) -> NodeRegistry:
    registry = NodeRegistry()
    egress = EgressPolicy(str(network) for network in settings.egress_allow)
    for version in [*builtin_nodes(egress), *ai_nodes(Models(egress, clock), _prices(settings))]:
        registry.register(version)
    for source in settings.nodes:
        registry.load_module(Path(source) if source.endswith(".py") else source)
    return registry


def _prices(settings: Settings) -> dict[str, Price]:
    try:
        return parse_prices(settings.model_prices or "{}")
    except ValueError as error:
        sentence = f"REFLUX_MODEL_PRICES is wrong at {error}"
        raise Invalid(sentence, [Fault("$.model_prices", "bad_value", sentence)]) from None


async def _keep_house(database: AsyncEngine, clock: Clock, settings: Settings) -> None:
    today = clock.now().date()
    async with transaction(database) as connection:
        await ensure_partitions(connection, today, _PARTITIONS_AHEAD)
    async with transaction(database) as connection:
        await drop_partitions_before(connection, today - timedelta(days=settings.events_retention_days))


async def _housekeeping(database: AsyncEngine, clock: Clock, settings: Settings) -> None:
    idempotency = Idempotency(database, clock)
    while True:
        await asyncio.sleep(_HOUSEKEEPING_SECONDS)
        try:
            await _keep_house(database, clock, settings)
            await idempotency.expire(clock.now())
        except Unavailable as error:
            _log.warning("housekeeping waits", detail=error.detail)
