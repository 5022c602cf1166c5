import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from infra.home import Home, HomeInUse
from infra.postgres.connection import create_engine
from infra.postgres.embedded import EmbeddedPostgres
from infra.postgres.system_user import server_user

OWNER = """
import asyncio, sys
from pathlib import Path
from infra.home import Home
from infra.postgres.embedded import EmbeddedPostgres
from infra.postgres.system_user import server_user

async def main() -> None:
    home = Path(sys.argv[1])
    with Home(home):
        server = EmbeddedPostgres(home)
        await server.start()
        print(server.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="reflux-embedded-"))
    yield path
    # A test that failed half-way must not leave its server behind.
    with suppress(FileNotFoundError, ValueError):
        os.kill(int((path / "pg" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    shutil.rmtree(path, ignore_errors=True)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z" and not Path(f"/proc/{pid}/exe").exists()
    except FileNotFoundError:
        return True


async def write(dsn: str, value: int) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
    await connection.execute("INSERT INTO kept VALUES ($1)", value)
    await connection.close()


async def read(dsn: str) -> list[int]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT value FROM kept ORDER BY value")
    await connection.close()
    return [row[0] for row in rows]


async def test_start_write_stop_start(home: Path) -> None:
    server = EmbeddedPostgres(home)
    dsn = await server.start()
    pid = server.pid
    assert pid is not None
    await write(dsn, 1)
    connection = await asyncpg.connect(dsn)
    shown = [
        await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit", "jit", "listen_addresses")
    ]
    assert shown == ["on", "on", "off", ""]
    assert (await connection.fetchval("SELECT version()")).startswith("PostgreSQL 18")
    before = time.monotonic()
    await server.stop()  # with a client still connected
    assert time.monotonic() - before < 3
    assert gone(pid)
    connection.terminate()
    await server.stop()

    again = EmbeddedPostgres(home)
    before = time.monotonic()
    dsn = await again.start()
    assert time.monotonic() - before < 3
    assert await read(dsn) == [1]
    engine = create_engine(dsn)
    async with engine.connect() as sqlalchemy_connection:
        assert (await sqlalchemy_connection.exec_driver_sql("SELECT 7")).scalar() == 7
    await engine.dispose()
    await again.stop()


async def test_server_outlives_its_killed_owner_and_is_taken_over(home: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(await asyncio.to_thread(owner.stdout.readline))
    with pytest.raises(HomeInUse, match=f"process {owner.pid};"):
        Home(home).lock()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with Home(home):  # the kernel gave it back, although the server still runs
        server = EmbeddedPostgres(home)
        dsn = await server.start()
        assert server.pid == pid
        await write(dsn, 2)
        await server.stop()
        assert gone(pid)


async def test_recovers_after_a_crash_of_everything(home: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(await asyncio.to_thread(owner.stdout.readline))
    socket_directory = (home / "pg" / "postmaster.pid").read_text().splitlines()[4]
    await write(f"postgresql://postgres@/postgres?host={socket_directory}", 3)
    owner.kill()
    os.kill(pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    again = EmbeddedPostgres(home)
    # Without waiting: children of the dead postmaster may still hold its shared memory.
    assert await read(await again.start()) == [3]
    await again.stop()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
async def test_a_server_that_dies_is_started_again(home: Path, kind: signal.Signals) -> None:
    server = EmbeddedPostgres(home)
    dsn = await server.start()
    await write(dsn, 3)
    pid = server.pid
    assert pid is not None
    os.kill(pid, kind)
    async with asyncio.timeout(10):
        while True:
            with suppress(OSError, asyncpg.PostgresError):
                if server.pid != pid:
                    assert await read(dsn) == [3]
                    break
            await asyncio.sleep(0.05)
    pid = server.pid
    await server.stop()
    assert pid is not None
    assert gone(pid)
    await asyncio.sleep(0.5)
    assert not (home / "pg" / "postmaster.pid").exists(), "it was started again although it was stopped"


async def test_lock_file_of_a_dead_server_names_a_stranger(home: Path) -> None:
    server = EmbeddedPostgres(home)
    await write(await server.start(), 4)
    lock = (home / "pg" / "postmaster.pid").read_text()
    await server.stop()
    # Of the server's own user: PostgreSQL itself sees through a stranger of another user.
    stranger = subprocess.Popen(["sleep", "60"], user=server_user(home / "pg").switch_uid)
    try:
        stale = "\n".join([str(stranger.pid), *lock.splitlines()[1:]])
        (home / "pg" / "postmaster.pid").write_text(f"{stale}\n")
        again = EmbeddedPostgres(home, start_timeout=10)
        assert await read(await again.start()) == [4]
        await again.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_path_too_long_for_a_socket(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    server = EmbeddedPostgres(deep)
    dsn = await server.start()
    assert str(deep) not in dsn
    await write(dsn, 5)
    directory = Path(dsn.partition("host=")[2])
    assert directory.stat().st_mode & 0o077 == 0
    again = EmbeddedPostgres(deep)
    assert await again.start() == dsn
    assert again.pid == server.pid
    await asyncio.gather(server.stop(), again.stop())  # together: neither may start it again for the other
    shutil.rmtree(directory)


async def test_failure_says_why(home: Path) -> None:
    server = EmbeddedPostgres(home, overrides={"shared_buffers": "nonsense"})
    with pytest.raises(Exception, match="shared_buffers"):
        await server.start()


async def test_a_half_made_database_is_made_anew(home: Path) -> None:
    (home / "pg.new").mkdir()
    (home / "pg.new" / "PG_VERSION").write_text("18")
    server = EmbeddedPostgres(home)
    await write(await server.start(), 6)
    await server.stop()


async def test_values_stay_out_of_the_log_and_of_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLUX_API_KEY", "rfx_environment")
    server = EmbeddedPostgres(home)
    connection = await asyncpg.connect(await server.start())
    await connection.execute("CREATE TABLE one (value text PRIMARY KEY)")
    await connection.execute("INSERT INTO one VALUES ($1)", "s3cret-value")
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("INSERT INTO one VALUES ($1)", "s3cret-value")
    await connection.close()
    assert b"rfx_environment" not in Path(f"/proc/{server.pid}/environ").read_bytes()
    await server.stop()
    log = (home / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "s3cret" not in log


async def test_idle_server_is_small(home: Path) -> None:
    server = EmbeddedPostgres(home)
    await server.start()
    assert server.pid is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    total = 0
    for pid in [str(server.pid), *children]:
        with suppress(ProcessLookupError, FileNotFoundError):  # a worker that was just done
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    await server.stop()
    assert total < 90 * 1024
