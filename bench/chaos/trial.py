"""One trial: load, kills, outages, and the reckoning at the end."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.chaos.called import CalledServer
from bench.chaos.server import Client, RefluxServer
from bench.chaos.verdict import Event, Findings, Kill, first_progress, judge_calls, judge_traces, table
from bench.chaos.work import workflow


@dataclass(frozen=True)
class Plan:
    """What is done to the server.

    Attributes:
        pause: shortest and longest time in seconds from readiness to the next kill.
        database_kills: kills of the embedded PostgreSQL, spread over the trial.
        quiet_seconds: how long load goes on when there is no kill.
    """

    runs: int
    steps: int
    kills: int
    seed: int
    pause: tuple[float, float] = (0.05, 3.0)
    database_kills: int = 0
    quiet_seconds: float = 10.0


@dataclass
class Result:
    """What came of a trial."""

    runs: int
    kills: list[Kill]
    findings: Findings
    progress: list[tuple[float, float]]

    def __str__(self) -> str:
        return table(self.runs, self.kills, self.findings, self.progress)


@dataclass
class Trial:
    """See the module. `outage` is awaited beside the load; the trial does not end before it."""

    server: RefluxServer
    called: CalledServer
    plan: Plan
    outage: Callable[[], Coroutine[Any, Any, None]] | None = None
    say: Callable[[str], None] = lambda _: None
    accepted: dict[str, int] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.plan.seed)

    async def run(self) -> Result:
        spec, gain = workflow(self.called.url, self.plan.steps)
        await self.server.ready()
        async with Client(self.server.url) as client:
            await client.call("POST", "/workflows", spec)
            loading = asyncio.create_task(self._load(client))
            others: list[asyncio.Task[None]] = [asyncio.create_task(self.outage())] if self.outage else []
            others.append(asyncio.create_task(self._kill_database()))
            await self._kill()
            await loading
            for one in others:
                await one
            self.say("waiting for the last runs")
            await self._await_ends(client)
            return await self._reckon(client, gain)

    async def _load(self, client: Client) -> None:
        """Submit the runs evenly over the kills, or over the quiet time when there are none."""
        plan = self.plan
        pause = plan.quiet_seconds / plan.runs if not plan.kills else 0.05
        async with asyncio.TaskGroup() as tasks:
            for index in range(plan.runs):
                while len(self.kills) < plan.kills * index // plan.runs:
                    await asyncio.sleep(0.01)
                body = {"n": index, "ms": self.chance.randrange(5, 120), "delay": self.chance.random()}
                tasks.create_task(self._submit(client, index, body))
                await asyncio.sleep(pause)

    async def _submit(self, client: Client, index: int, body: dict[str, Any]) -> None:
        # The key makes the repetition of a cut-off request safe, so every run is accepted in the end, and once.
        key = {"Idempotency-Key": f"chaos-{self.plan.seed}-{index}"}
        run = await client.call("POST", "/workflows/chaos/execute", {"input": body}, key)
        self.accepted[run["id"]] = index

    async def _kill(self) -> None:
        for number in range(self.plan.kills):
            await asyncio.sleep(self.chance.uniform(*self.plan.pause))
            at = time.time()
            self.server.kill()
            self.server.start()
            ready = await self.server.ready()
            self.kills.append(Kill(at, ready))
            self.say(f"kill {number + 1}: ready after {ready - at:.2f} s, {len(self.accepted)} runs accepted")

    async def _kill_database(self) -> None:
        for _ in range(self.plan.database_kills):
            await asyncio.sleep(self.chance.uniform(1.0, 3.0))
            await self.server.ready()  # a server whose database dies while it starts gives up
            self.server.end_postgres(signal.SIGKILL)
            self.say("the database's main process is killed")

    async def _await_ends(self, client: Client) -> None:
        deadline = time.monotonic() + 90
        open_runs = set(self.accepted)
        while open_runs and time.monotonic() < deadline:
            for run_id in list(open_runs):
                run = await client.call("GET", f"/runs/{run_id}")
                if run["status"] in ("completed", "failed", "cancelled"):
                    open_runs.discard(run_id)
            await asyncio.sleep(0.2)

    async def _reckon(self, client: Client, gain: int) -> Result:
        findings = Findings()
        journal: dict[str, list[Event]] = {}
        for run_id, n in self.accepted.items():
            run = await client.call("GET", f"/runs/{run_id}")
            journal[run_id] = await client.pages(f"/runs/{run_id}/events")
            if run["status"] != "completed":
                findings.lost.append(f"{run_id} is {run['status']}: {run.get('error')}")
            elif run["outputs"] != {"v": n + gain}:
                findings.wrong.append(f"{run_id} gave {run['outputs']} instead of {n + gain}")
        listed = {one["id"] for one in await client.pages("/runs")}
        findings.wrong += [f"{one} was never submitted" for one in listed - set(self.accepted)]
        judge_calls(journal, await self.called.calls(), findings)
        deadline = time.monotonic() + 30
        while True:
            judge_traces(journal, await client.pages("/traces"), findings)
            if not findings.traces_missing or time.monotonic() > deadline:
                break
            await asyncio.sleep(1.0)
        return Result(len(self.accepted), self.kills, findings, first_progress(journal, self.kills))


def short_home(base: Path) -> Path:
    """A data directory below `base`; PostgreSQL's socket path must be short."""
    base.mkdir(parents=True, exist_ok=True)
    return base / "h"
