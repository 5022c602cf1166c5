import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import Unavailable
from infra.clickhouse.client import ClickHouse, Directory, Limits, Server, parse_target
from infra.clickhouse.traces import TraceFilter, TraceStore
from tests.infra.clickhouse.rows import BASE, row
from tests.infra.clickhouse.server import PASSWORD, ServerProcess

QUICK = Limits(connect_s=1, read_s=1)


def test_targets() -> None:
    server = parse_target("https://u:p%2Fw@ch.example/db")
    assert server == Server("https", "ch.example", 8443, "u", "db", "p/w")
    assert parse_target("http://h") == Server("http", "h", 8123, "default", "reflux", "")
    assert parse_target("/data/traces") == Directory(Path("/data/traces"))


@pytest.mark.parametrize(
    "url", ["ftp://u:hunter2@h/db", "http://u:hunter2@h:no/db", "http://u:hunter2@/db", "http://u:hunter2@h/db?x=1"]
)
def test_bad_url_does_not_tell_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="ClickHouse URL") as caught:
        parse_target(url)
    assert "hunter2" not in str(caught.value)
    assert "p/w" not in repr(parse_target("https://u:p%2Fw@h/db"))


async def test_away_is_told_in_time_and_back_again_works(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    store = TraceStore(ClickHouse(parse_target(server.url), QUICK))  # not even there when the store is made
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await store.insert([row("w")], "a")
        assert time.monotonic() - began < 4
        assert "does not answer" in caught.value.detail
        assert PASSWORD not in str(caught.value)
        server.start()
        await store.insert([row("w")], "a")
        server.stop()
        with pytest.raises(Unavailable):
            await store.count(TraceFilter("w"))
        server.start()
        await store.insert([row("w")], "a")
        assert await store.count(TraceFilter("w")) == 1
    finally:
        server.stop()
        await store.aclose()


@pytest.mark.parametrize("switches", [{"hang": 1.6}, {"drop": 5}], ids=["silent", "cut"])
async def test_insert_in_doubt_is_repeated_without_doubling(
    server: ServerProcess, workspace: str, switches: dict[str, float]
) -> None:
    store = TraceStore(ClickHouse(parse_target(server.url), QUICK))
    rows = [row(workspace, i, start=BASE.replace(month=1 + i % 12)) for i in range(60)]
    try:
        await store.prepare()
        server.control(**switches)
        with pytest.raises(Unavailable):
            await store.insert(rows, f"{workspace}-t")
        server.control(drop=0)
        # The server did it: that is the doubt.
        assert await store.count(TraceFilter(workspace)) == 60
        await store.insert(rows, f"{workspace}-t")
        assert await store.count(TraceFilter(workspace)) == 60
    finally:
        server.control(drop=0)
        await store.aclose()


async def test_wrong_password_is_told_without_it(server: ServerProcess) -> None:
    clickhouse = ClickHouse(parse_target(f"http://tester:hunter2@127.0.0.1:{server.port}/reflux_test"), QUICK)
    with pytest.raises(Unavailable, match="refuses the credentials") as caught:
        await TraceStore(clickhouse).prepare()
    assert "hunter2" not in repr(caught.value)
    await clickhouse.aclose()


HOLD = """
import asyncio, sys
from pathlib import Path
from infra.clickhouse.client import ClickHouse, Directory
from infra.clickhouse.traces import TraceStore

async def main():
    store = TraceStore(ClickHouse(Directory(Path(sys.argv[1]))))  # the directory is held as long as the object lives
    await store.prepare()
    print("held", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""

OPEN = """
import asyncio, sys
from pathlib import Path
from core.errors import Unavailable
from infra.clickhouse.client import ClickHouse, Directory
from infra.clickhouse.traces import TraceFilter, TraceStore

async def main():
    store = TraceStore(ClickHouse(Directory(Path(sys.argv[1]))))
    try:
        print(await store.count(TraceFilter("w")))
    except Unavailable as error:
        print(error)
    await store.aclose()

asyncio.run(main())
"""


def test_directory_of_another_process_is_refused_until_it_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        first = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, check=True)
        holder.kill()
    assert "another process uses it" in first.stdout
    second = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, check=True)
    assert second.stdout == "0\n"


async def test_cancelled_caller_leaves_the_store_in_order(store: TraceStore, workspace: str) -> None:
    task = asyncio.create_task(store.insert([row(workspace, i) for i in range(5000)], workspace))
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.insert([row(workspace, i) for i in range(5000)], workspace)
    assert await store.count(TraceFilter(workspace)) == 5000
