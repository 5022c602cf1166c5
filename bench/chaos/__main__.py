"""`python -m bench.chaos`: prints what was lost and what was done twice; ends with 1 when anything was."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

from bench.chaos.called import CalledServer, free_port
from bench.chaos.mix import Mix, MixPlan, MixResult
from bench.chaos.server import RefluxServer
from bench.chaos.trial import Plan, Result, Trial, short_home
from tests.infra.clickhouse.server import ServerProcess


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--mix", action="store_true", help="every feature at once, kills of the server alone")
    parser.add_argument("--runs", type=int, default=0, help="default: 200; with --mix three for each kill")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--database-kills", type=int, default=0, help="kills of the embedded PostgreSQL")
    parser.add_argument("--clickhouse-outage", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--port", type=int, default=0, help="port of the server; default: a free one")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


async def _mix(given: argparse.Namespace, base: Path) -> MixResult:
    called = CalledServer()
    called.start()
    plan = MixPlan(given.kills, given.runs or 3 * given.kills, given.seed, database_kills=given.database_kills)
    try:
        with RefluxServer(short_home(base), given.port or free_port()) as server:
            return await Mix(server, called, plan, lambda text: print(text, flush=True)).run()
    finally:
        called.stop()


async def _trial(given: argparse.Namespace, base: Path) -> Result:
    called = CalledServer()
    called.start()
    clickhouse = ServerProcess(base / "clickhouse") if given.clickhouse_outage else None
    environment = {}
    if clickhouse is not None:
        clickhouse.start()
        environment["REFLUX_CLICKHOUSE_URL"] = clickhouse.url

    async def outage() -> None:
        if clickhouse is not None:
            await asyncio.sleep(3.0)
            clickhouse.stop()
            print(f"ClickHouse is gone for {given.clickhouse_outage:g} s", flush=True)
            await asyncio.sleep(given.clickhouse_outage)
            await asyncio.to_thread(clickhouse.start)
            print("ClickHouse is back", flush=True)

    plan = Plan(
        given.runs or 200,
        given.steps,
        given.kills,
        given.seed,
        database_kills=given.database_kills,
        quiet_seconds=max(10.0, given.clickhouse_outage + 5.0),
    )
    try:
        with RefluxServer(short_home(base), given.port or free_port(), environment) as server:
            return await Trial(server, called, plan, outage, lambda text: print(text, flush=True)).run()
    finally:
        called.stop()
        if clickhouse is not None:
            clickhouse.stop()


def main() -> int:
    given = _arguments()
    base = Path(tempfile.mkdtemp(prefix="reflux-chaos-"))
    base.chmod(0o755)
    try:
        trial: Coroutine[None, None, Result | MixResult] = _mix(given, base) if given.mix else _trial(given, base)
        result = asyncio.run(trial)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"\n{result}\n")
    findings = result.findings
    for kind in ("lost", "wrong", "doubled", "traces_missing", "traces_double", "left_over", "exceeded"):
        for one in getattr(findings, kind, [])[:10]:
            print(f"{kind}: {one}")
    return 0 if findings.good else 1


if __name__ == "__main__":
    sys.exit(main())
