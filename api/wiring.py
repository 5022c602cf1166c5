"""The composition root: the only place that knows every room and every adapter, and joins them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from api.catalogue import open_registry
from api.programs import Programs
from api.run_starter import RunStarter
from api.services import Services
from api.stores import Stores, open_stores
from core.clock import Clock
from core.errors import Unavailable
from core.journal import RunWrite
from engine.attempt import Attempts
from engine.cache.step_cache import StepCache
from engine.events.feed import EventFeed
from engine.events.wait_index import WaitIndex
from engine.expression.evaluator import Evaluator
from engine.limits.book import NodeLimits
from engine.limits.limiter import Limiter
from engine.node.process import NodeProcesses
from engine.node.registry import NodeRegistry
from engine.node.workspaces import WorkspaceNodes
from engine.notices import Notices
from engine.parts import Parts
from engine.performer import Performer
from engine.remote.sweeper import Sweeper
from engine.remote.tasks import RemoteTasks
from engine.routing.router import Router
from engine.runner import Engine
from engine.triggers.service import Triggers
from infra.clickhouse.client import ClickHouse, parse_target
from infra.clickhouse.insights import Insights
from infra.clickhouse.traces import TraceStore
from infra.clock import SystemClock
from infra.home import Home
from infra.metrics import Metrics
from infra.objects import Objects
from infra.postgres.connection import create_engine, transaction
from infra.postgres.embedded import EmbeddedPostgres
from infra.postgres.journal import PostgresJournal
from infra.postgres.migration import migrate
from infra.postgres.partitions import drop_partitions_before, ensure_partitions
from infra.postgres.secrets import SecretKey
from infra.settings import Settings
from infra.shipper import TraceShipper
from infra.watcher import Watcher

_log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS = 3600.0
_PARTITIONS_AHEAD = 3
_PATIENCE_SECONDS = 20.0
_TRY_AGAIN_SECONDS = 0.5
_EVENTS_KEPT = timedelta(days=7)
_T = TypeVar("_T")


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
        objects = Objects.open(settings.objects)
        stores = open_stores(database, clock, objects, _secret_key(settings))
        await _patiently(lambda: _keep_house(database, clock, settings))
        traces = await _open_traces(settings, stack)
        shipper = TraceShipper(dsn, traces)
        shipper.start()
        stack.push_async_callback(shipper.aclose)

        chosen_key = settings.api_key.get_secret_value() if settings.api_key else None
        first_key = await _patiently(lambda: stores.api_keys.ensure_first(chosen_key))
        registry = open_registry(settings, clock, stores.variables)
        stack.push_async_callback(registry.aclose)
        workspace_nodes = WorkspaceNodes(stores.node_versions, registry)
        evaluator, performer = await _open_performer(stores, clock, stack)
        journal = PostgresJournal(dsn, objects)
        stack.push_async_callback(journal.aclose)
        programs = Programs(stores.workflows, registry, clock)
        notices = Notices()
        metrics = Metrics()

        def on_durable(writes: Sequence[RunWrite]) -> None:
            notices.tell(writes)
            shipper.wake()
            metrics.committed(writes)

        parts = await _open_parts(settings, stores, clock, evaluator, registry, programs, stack)
        assert parts.router is not None
        assert parts.limiter is not None
        assert parts.limits is not None
        assert parts.cache is not None
        attempts = Attempts(clock, evaluator, performer, parts)
        engine = Engine(journal, clock, attempts, programs.of_run, on_durable, exclusive, stores.commands)
        watcher = Watcher(
            stores.generations,
            {
                "nodes": (workspace_nodes.reload, parts.router.reload, programs.reload),
                "routes": (parts.router.reload,),
                "breakers": (parts.router.reload,),
                "limits": (parts.limits.reload,),
                "commands": (engine.read_mail,),
            },
        )
        await _patiently(watcher.start)
        stack.push_async_callback(watcher.aclose)
        await _patiently(engine.start)
        stack.push_async_callback(engine.stop)
        triggers = _open_triggers(stores, engine, RunStarter(engine, programs, clock), evaluator, clock, stack)
        housekeeping = asyncio.create_task(_housekeeping(database, clock, settings, stores))
        stack.callback(housekeeping.cancel)
        yield Services(
            settings=settings,
            clock=clock,
            engine=engine,
            evaluator=evaluator,
            registry=registry,
            workspace_nodes=workspace_nodes,
            programs=programs,
            notices=notices,
            journal=journal,
            stores=stores,
            router=parts.router,
            limiter=parts.limiter,
            node_limits=parts.limits,
            step_cache=parts.cache,
            triggers=triggers,
            traces=traces,
            insights=Insights(traces),
            shipper=shipper,
            metrics=metrics,
            first_key=first_key,
        )


async def _open_performer(stores: Stores, clock: Clock, stack: AsyncExitStack) -> tuple[Evaluator, Performer]:
    evaluator = Evaluator()
    await evaluator.start()
    stack.push_async_callback(evaluator.aclose)
    processes = await stack.enter_async_context(NodeProcesses())
    performer = Performer(clock, stores.secrets, processes)
    stack.push_async_callback(performer.aclose)
    return evaluator, performer


async def _open_parts(
    settings: Settings,
    stores: Stores,
    clock: Clock,
    evaluator: Evaluator,
    registry: NodeRegistry,
    programs: Programs,
    stack: AsyncExitStack,
) -> Parts:
    """What the engine works with."""
    router = Router(stores.routes, stores.breakers, clock, evaluator, registry)
    stack.push_async_callback(router.aclose)
    limiter = Limiter(stores.slots, clock)
    limiter.start()
    stack.push_async_callback(limiter.aclose)
    cache = StepCache(stores.step_results, clock)
    cache.start()
    stack.push_async_callback(cache.aclose)
    parts = Parts(
        router=router,
        limiter=limiter,
        limits=NodeLimits(stores.limits),
        cache=cache,
        waits=WaitIndex(evaluator, clock),
        events=stores.events,
        variables=stores.variables,
        workflows=programs,
    )
    if settings.broker_url is None:
        return parts
    # Celery takes 150 ms to load, and only those need it who have a broker.
    from infra.celery.publisher import CeleryPublisher

    publisher = CeleryPublisher(settings.broker_url.get_secret_value())
    stack.push_async_callback(publisher.aclose)
    remote = RemoteTasks(stores.tasks, publisher, clock)
    stack.push_async_callback(remote.aclose)
    sweeping = asyncio.create_task(Sweeper(stores.tasks, publisher).run())
    stack.callback(sweeping.cancel)
    return replace(parts, remote=remote)


def _open_triggers(
    stores: Stores, engine: Engine, starter: RunStarter, evaluator: Evaluator, clock: Clock, stack: AsyncExitStack
) -> Triggers:
    feed = EventFeed(stores.events, engine.on_event, clock)
    feed.start()
    stack.push_async_callback(feed.aclose)
    triggers = Triggers(
        stores.triggers, stores.firings, stores.events, starter, stores.secrets, evaluator, clock, feed.deliver
    )
    triggers.start()
    stack.push_async_callback(triggers.aclose)
    return triggers


async def _open_traces(settings: Settings, stack: AsyncExitStack) -> TraceStore:
    target = settings.clickhouse_url.get_secret_value() if settings.clickhouse_url else settings.home / "clickhouse"
    traces = TraceStore(ClickHouse(parse_target(target)), settings.traces_retention_days)
    stack.push_async_callback(traces.aclose)
    await _prepare_traces(traces)
    return traces


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


async def _keep_house(database: AsyncEngine, clock: Clock, settings: Settings) -> None:
    today = clock.now().date()
    async with transaction(database) as connection:
        await ensure_partitions(connection, today, _PARTITIONS_AHEAD)
    async with transaction(database) as connection:
        await drop_partitions_before(connection, today - timedelta(days=settings.events_retention_days))


async def _housekeeping(database: AsyncEngine, clock: Clock, settings: Settings, stores: Stores) -> None:
    while True:
        await asyncio.sleep(_HOUSEKEEPING_SECONDS)
        try:
            await _keep_house(database, clock, settings)
            now = clock.now()
            await stores.idempotency.expire(now)
            await stores.commands.expire()
            await stores.events.expire(now - _EVENTS_KEPT)
            await stores.firings.expire(now - timedelta(days=settings.events_retention_days))
            await stores.variables.sweep(now)
        except Unavailable as error:
            _log.warning("housekeeping waits", detail=error.detail)
