"""Redis, a directory, and workers that are gone at the end."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from engine.remote.call import RemoteCall
from infra.clock import SystemClock
from infra.postgres.embedded import EmbeddedPostgres
from tests.conftest import TEMPLATE
from tests.engine.remote.worker_process import WorkerProcess, several_workers, work_directory
from tests.redis_server import RedisServer, running_redis


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def directory() -> Iterator[Path]:
    with work_directory() as path:
        yield path


@pytest.fixture
def new_worker(database: str, redis: RedisServer, directory: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Makes workers; `database` and `redis` are theirs."""
    with several_workers(database, redis.url, directory) as make:
        yield make


@dataclass(frozen=True, slots=True)
class Served:
    """A database and a broker with two workers for all tests."""

    dsn: str
    broker: str
    directory: Path
    workers: tuple[WorkerProcess, WorkerProcess]

    def begun(self, calls: Sequence[RemoteCall]) -> list[str]:
        """The keys of those calls that began, as often as they did."""
        keys = {one.idempotency_key for one in calls}
        return [key for key in self.workers[0].noted() if key in keys]


@pytest.fixture(scope="module")
async def served(postgres: EmbeddedPostgres) -> AsyncIterator[Served]:
    name = f"served_{SystemClock().new_id().hex}"
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    try:
        dsn = postgres.dsn(name)
        with running_redis() as broker, work_directory() as path, several_workers(dsn, broker.url, path) as make:
            workers = (make().start(), make().start())
            yield Served(dsn, broker.url, path, workers)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()
