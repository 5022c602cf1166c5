"""What is outside goes away and comes back: runs go on or wait, and nothing is missing or double afterwards."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.chaos.called import CalledServer, free_port
from bench.chaos.server import RefluxServer
from bench.chaos.trial import Plan, Trial, short_home
from tests.infra.clickhouse.server import ServerProcess

pytestmark = pytest.mark.chaos


@pytest.fixture
def clickhouse(base: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(base / "clickhouse")
    process.start()
    yield process
    process.stop()


async def test_clickhouse_goes_away_and_loses_answers(
    base: Path, clickhouse: ServerProcess, called: CalledServer
) -> None:
    async def outage() -> None:
        await asyncio.sleep(1.0)
        clickhouse.control(drop=2)
        await asyncio.sleep(1.0)
        clickhouse.stop()
        await asyncio.sleep(4.0)
        await asyncio.to_thread(clickhouse.start)

    environment = {"REFLUX_CLICKHOUSE_URL": clickhouse.url}
    with RefluxServer(short_home(base), free_port(), environment) as server:
        plan = Plan(runs=60, steps=10, kills=0, seed=5, quiet_seconds=6.0)
        result = await Trial(server, called, plan, outage).run()
    print(result)
    assert result.findings.good, result.findings
    assert result.runs == 60


async def test_the_database_dies_again_and_again(server: RefluxServer, called: CalledServer) -> None:
    plan = Plan(runs=40, steps=10, kills=0, seed=6, quiet_seconds=6.0, database_kills=4)
    result = await Trial(server, called, plan).run()
    print(result)
    assert result.findings.good, result.findings
    assert result.findings.lost_attempts == 0, "the engine lost attempts although it never died"
