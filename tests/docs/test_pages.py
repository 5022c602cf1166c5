"""The tutorial and every how-to do what they say."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from infra.clock import SystemClock
from infra.postgres.embedded import EmbeddedPostgres
from tests.docs.page import ROOT, Reader, blocks
from tests.infra.clickhouse.server import ServerProcess
from tests.redis_server import running_redis
from tests.server import RunningServer, short_home

DOCS = ROOT / "docs"
SERVERS = DOCS / "how-to" / "use-servers.md"
WORKERS = DOCS / "how-to" / "scale-out.md"
PAGES = [ROOT / "README.md", DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]


@pytest.fixture
def home() -> Iterator[Path]:
    path = short_home()
    yield path
    RunningServer(path).stop_postgres()
    shutil.rmtree(path.parent, ignore_errors=True)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in (SERVERS, WORKERS)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_page(page: Path, tmp_path: Path, home: Path) -> None:
    reader = Reader(tmp_path, home, {})
    try:
        reader.read(page)
    finally:
        reader.close()


@pytest.fixture
async def own_database(postgres: EmbeddedPostgres) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """The name of an empty database, and a connection beside it."""
    name = f"docs_{SystemClock().new_id().hex}"
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"CREATE DATABASE {name}")
    yield name, admin
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_page_about_servers(
    postgres: EmbeddedPostgres, own_database: tuple[str, asyncpg.Connection], tmp_path: Path, home: Path
) -> None:
    name, admin = own_database
    clickhouse = ServerProcess(tmp_path / "clickhouse")
    clickhouse.start()
    replaced = {
        "postgresql://reflux:password@db.example:5432/reflux": postgres.dsn(name),
        "http://reflux:password@clickhouse.example:8123/reflux": clickhouse.url,
    }
    reader = Reader(tmp_path, home, replaced)
    try:
        await asyncio.to_thread(reader.read, SERVERS)
        assert await admin.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name) == 1
        assert not (home / "pg").exists()
        assert not (home / "clickhouse").exists()
    finally:
        reader.close()
        clickhouse.stop()


async def test_page_about_workers(
    postgres: EmbeddedPostgres, own_database: tuple[str, asyncpg.Connection], tmp_path: Path, home: Path
) -> None:
    name, _ = own_database
    with running_redis() as redis:
        replaced = {
            "postgresql://reflux:password@db.example:5432/reflux": postgres.dsn(name),
            "redis://redis.example:6379/0": redis.url,
        }
        reader = Reader(tmp_path, home, replaced)
        try:
            await asyncio.to_thread(reader.read, WORKERS)
        finally:
            await asyncio.to_thread(reader.close)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_page_checks_something(page: Path) -> None:
    found = list(blocks(page))
    assert any(block.info.startswith("run") for block in found)
    assert any(block.info.startswith("expect") for block in found)
    assert any(block.info.startswith("server") for block in found)
