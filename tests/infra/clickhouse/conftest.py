from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from infra.clickhouse.client import ClickHouse, Limits, parse_target
from infra.clickhouse.traces import TraceStore
from tests.infra.clickhouse.server import ServerProcess

# One embedded engine for each process and directory: the directory lasts for the package, and each test is a workspace.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("clickhouse_server"))
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clickhouse")


@pytest.fixture(scope="module", params=["embedded", "server"])
async def clickhouse(request: pytest.FixtureRequest) -> AsyncIterator[ClickHouse]:
    if request.param == "embedded":
        target = parse_target(request.getfixturevalue("directory"))
    else:
        target = parse_target(request.getfixturevalue("server").url)
    opened = ClickHouse(target, Limits(connect_s=1, read_s=5))
    yield opened
    await opened.aclose()


@pytest.fixture(scope="module")
async def store(clickhouse: ClickHouse) -> TraceStore:
    prepared = TraceStore(clickhouse, retention_days=30)
    await prepared.prepare()
    return prepared


@pytest.fixture
def workspace(request: pytest.FixtureRequest) -> str:
    return request.node.name[:100]
