"""Real parts for all tests: one embedded PostgreSQL for the session, a fresh migrated database for each test."""

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import uuid7
from infra.clock import SystemClock
from infra.postgres.connection import create_engine
from infra.postgres.embedded import EmbeddedPostgres
from infra.postgres.migration import migrate

TEMPLATE = "reflux_template"
# What a test checks about durability it checks on a server of its own.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "100"}


class ManualClock:
    """A clock that stands still until it is told to go on. Its ids are ordered and repeatable."""

    def __init__(self, start: datetime = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1_000.0
        self._ids = 0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def random(self) -> float:
        return 0.5

    def new_id(self) -> uuid.UUID:
        self._ids += 1
        return uuid7(int(self._now.timestamp() * 1000), self._ids)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    # Not pytest's own directory: its ancestors are made private again whenever another session starts.
    path = Path(tempfile.mkdtemp(prefix="reflux-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
async def postgres(server_home: Path) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(server_home, overrides=FAST)
    dsn = await server.start()
    try:
        admin = await asyncpg.connect(dsn)
        await admin.execute(f"CREATE DATABASE {TEMPLATE}")
        await admin.close()
        await migrate(server.dsn(TEMPLATE))
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def empty_database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The DSN of a database without any table."""
    async for dsn in _database(postgres, "template1"):
        yield dsn


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The DSN of a fresh, migrated database."""
    async for dsn in _database(postgres, TEMPLATE):
        yield dsn


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    """A SQLAlchemy engine on `database`."""
    engine = create_engine(database)
    yield engine
    await engine.dispose()


async def _database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    name = f"test_{SystemClock().new_id().hex}"
    admin = await asyncpg.connect(postgres.dsn())
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        yield postgres.dsn(name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()
