"""A server that is paused for longer than its lease wakes up as a zombie: it changes nothing and starts anew."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from bench.chaos.called import CalledServer, free_port
from bench.chaos.server import Client, RefluxServer

pytestmark = pytest.mark.chaos


async def test_a_paused_server_is_replaced_and_gives_way(base: Path, called: CalledServer, database: str) -> None:
    for name in ("one", "two"):
        (base / name).mkdir(mode=0o755)
    environment = {"REFLUX_DATABASE_URL": database}
    with (
        RefluxServer(base / "one" / "h", free_port(), environment) as one,
        RefluxServer(base / "two" / "h", free_port(), environment) as two,
    ):
        await asyncio.gather(one.ready(), two.ready())
        async with Client(one.url) as first, Client(two.url) as second:
            steps = [
                {"id": "a", "node": "http.request", "with": {"url": f"{called.url}/add/1?ms=1500"}},
                {
                    "id": "b",
                    "node": "http.request",
                    "with": {"url": f"{called.url}/add/{{{{ steps.a.output.body.v }}}}"},
                },
            ]
            await first.call(
                "POST", "/workflows", {"name": "w", "steps": steps, "outputs": {"v": "{{ steps.b.output.body.v }}"}}
            )
            runs = [(await first.call("POST", "/workflows/w/execute", {}))["id"] for _ in range(10)]
            while len(await called.calls()) < 10:
                await asyncio.sleep(0.02)
            os.kill(one.pid, signal.SIGSTOP)
            try:
                for run_id in runs:
                    run = await second.run_until(run_id, {"completed", "failed"}, 25)
                    assert (run["status"], run["outputs"], run["recoveries"]) == ("completed", {"v": 3}, 1)
            finally:
                os.kill(one.pid, signal.SIGCONT)
            before = {run_id: await second.pages(f"/runs/{run_id}/events") for run_id in runs}
            # Awake again, it drops what it held and works under a new name.
            fresh = await first.call("POST", "/workflows/w/execute?wait=8", {})
            assert fresh["status"] == "completed"
            assert {run_id: await second.pages(f"/runs/{run_id}/events") for run_id in runs} == before
            for run_id in runs:
                calls = [call.key.rpartition(":")[2] for call in await called.calls_of(run_id)]
                assert sorted(calls) == ["a", "a", "b"], (
                    "the first call once more, because it was in flight; the second once"
                )
