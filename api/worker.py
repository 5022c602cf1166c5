"""The composition root of a worker process: Celery in the main thread, everything else in one event loop beside it."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from uuid import UUID

import structlog

from api.catalogue import open_registry
from core.errors import Fault, Invalid, Unavailable
from engine.expression.evaluator import Evaluator
from engine.node.process import NodeProcesses
from engine.performer import Performer
from engine.remote.worker import Identity, TaskWorker, Timing
from infra.celery.consumer import CeleryConsumer
from infra.clock import SystemClock
from infra.objects import Objects
from infra.postgres.connection import create_engine
from infra.postgres.migration import migrate
from infra.postgres.secrets import SecretKey, Secrets
from infra.postgres.variables import Variables
from infra.postgres.workers import Workers
from infra.settings import Settings
from infra.telemetry import configure_logging

_log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 20.0
_TRY_AGAIN_SECONDS = 0.5


def run_worker(settings: Settings, groups: Sequence[str], concurrency: int, timing: Timing | None = None) -> None:
    """Perform tasks of these node groups until SIGTERM or SIGINT. Must be called in the main thread.

    Raises:
        Invalid: a setting that a worker needs is missing.
        Unavailable: the database does not come up.
    """
    configure_logging(settings.log_level, settings.log_format)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    broker = _needed(settings)
    # Until Celery takes over the signals: leave in order, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    beside = _Beside(settings, groups, concurrency, timing or Timing())

    def tell_ready() -> None:
        _log.info("worker is ready", worker=str(beside.id), groups=list(groups), concurrency=concurrency)

    try:
        beside.start()
        consumer = CeleryConsumer(broker, groups, beside.take, tell_ready, beside.close)
        consumer.run(f"{beside.id}@{socket.gethostname()}")
    finally:
        beside.stop()
    _log.info("worker has stopped", worker=str(beside.id))


class _Beside:
    """The event loop in a thread of its own, seen from the other threads."""

    def __init__(self, settings: Settings, groups: Sequence[str], concurrency: int, timing: Timing) -> None:
        clock = SystemClock()
        self._identity = Identity(clock.new_id(), tuple(groups), socket.gethostname(), os.getpid(), concurrency)
        self._settings = settings
        self._timing = timing
        self._ready: Future[None] = Future()
        self._end = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: TaskWorker | None = None
        self._thread = threading.Thread(target=self._main, name="attempts")

    @property
    def id(self) -> UUID:
        """The worker's."""
        return self._identity.id

    def start(self) -> None:
        """Returns when tasks can be taken. Raises what keeps the worker from starting."""
        self._thread.start()
        self._ready.result()

    def take(self, task_id: UUID) -> None:
        """See `TaskWorker.take`; for threads."""
        assert self._loop is not None
        assert self._worker is not None
        asyncio.run_coroutine_threadsafe(self._worker.take(task_id), self._loop).result()

    def close(self) -> None:
        """See `TaskWorker.close`; for signal handlers."""
        if self._loop is not None and self._worker is not None:
            self._loop.call_soon_threadsafe(self._worker.close)

    def stop(self) -> None:
        """Returns when everything is closed."""
        if self._thread.ident is None:
            return
        with suppress(RuntimeError):  # the loop has ended by itself
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with _open_worker(self._settings, self._identity, self._timing) as worker:
            self._worker = worker
            self._ready.set_result(None)
            await self._end.wait()


@asynccontextmanager
async def _open_worker(settings: Settings, identity: Identity, timing: Timing) -> AsyncIterator[TaskWorker]:
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        assert settings.database_url is not None
        dsn = settings.database_url.get_secret_value()
        await _patiently(dsn)
        database = create_engine(dsn)
        stack.push_async_callback(database.dispose)
        secrets = Secrets(database, clock, _secret_key(settings))
        registry = open_registry(settings, clock, Variables(database, clock))
        stack.push_async_callback(registry.aclose)
        evaluator = Evaluator()
        await evaluator.start()
        stack.push_async_callback(evaluator.aclose)
        processes = await stack.enter_async_context(NodeProcesses(identity.concurrency))
        performer = Performer(clock, secrets, processes)
        stack.push_async_callback(performer.aclose)
        store = Workers(database, Objects.open(settings.objects))
        worker = TaskWorker(store, performer, registry.resolve, evaluator, clock, identity, timing)
        await worker.start()
        stack.push_async_callback(worker.stop)
        yield worker


def _needed(settings: Settings) -> str:
    """The broker's address; all that a worker cannot be without is there."""
    faults = []
    if settings.database_url is None:
        faults.append(Fault("$.database_url", "missing", "REFLUX_DATABASE_URL must name the server's PostgreSQL"))
    if settings.broker_url is None:
        faults.append(Fault("$.broker_url", "missing", "REFLUX_BROKER_URL must name the server's Redis or RabbitMQ"))
    if settings.secret_key is None and not (settings.home / "secret.key").exists():
        sentence = "REFLUX_SECRET_KEY must be the server's, or REFLUX_HOME a directory that is shared with the server"
        faults.append(Fault("$.secret_key", "missing", sentence))
    if faults or settings.broker_url is None:
        raise Invalid("; ".join(fault.message for fault in faults), faults)
    return settings.broker_url.get_secret_value()


async def _patiently(dsn: str) -> None:
    """Migrate as soon as the database is there; with nothing to do that is quick, and several may do it at once."""
    for _ in range(int(_PATIENCE_SECONDS / _TRY_AGAIN_SECONDS)):
        try:
            return await migrate(dsn)
        except Unavailable as error:
            _log.warning("waiting for the database", detail=error.detail)
            await asyncio.sleep(_TRY_AGAIN_SECONDS)
    return await migrate(dsn)


def _secret_key(settings: Settings) -> SecretKey:
    if settings.secret_key is not None:
        return SecretKey.from_text(settings.secret_key.get_secret_value())
    return SecretKey.from_file(settings.home / "secret.key")
