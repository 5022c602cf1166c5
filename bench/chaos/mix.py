"""The mix: every feature at once, events and commands from outside, and `kill -9` of the server all the while."""

import asyncio
import json
import random
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg

from bench.chaos.called import CalledServer
from bench.chaos.mix_verdict import MixFindings, judge_mix, recovery
from bench.chaos.mix_work import ROUTE, STARTED_BY_TRIGGER, Job, jobs, versions, workflows
from bench.chaos.server import KEY, Client, RefluxServer
from bench.chaos.verdict import Kill, judge_traces, table

_ENDS_WITHIN = 90.0
_OUTSTANDING = 40


@dataclass(frozen=True)
class MixPlan:
    """What is done to the server.

    Attributes:
        pause: shortest and longest time in seconds from readiness to the next kill.
        database_kills: of the embedded PostgreSQL, spread over the time.
    """

    kills: int
    runs: int
    seed: int
    pause: tuple[float, float] = (0.05, 2.0)
    database_kills: int = 0


@dataclass
class MixResult:
    """What came of it."""

    runs: int
    kills: list[Kill]
    findings: MixFindings
    recovered: list[tuple[float, float]]

    def __str__(self) -> str:
        told = table(self.runs, self.kills, self.findings, self.recovered)
        rows = {
            "runs in all, with children and triggered ones": self.findings.all_runs,
            "rows left over": len(self.findings.left_over),
            "limits exceeded": len(self.findings.exceeded),
            "calls at once under the step's limit, at most": self.findings.most,
            "answers from the cache": self.findings.cache_hits,
            "firings of cron": self.findings.cron,
        }
        return "\n".join([told, *(f"{name:<46}{value:>18}" for name, value in rows.items())])


@dataclass
class Mix:
    """See the module."""

    server: RefluxServer
    called: CalledServer
    plan: MixPlan
    say: Callable[[str], None] = lambda _: None
    started: dict[Job, str] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.plan.seed)
        self._room = asyncio.Semaphore(_OUTSTANDING)

    async def run(self) -> MixResult:
        """Everything, and the reckoning. Raises TimeoutError when runs do not end."""
        await self.server.ready()
        async with Client(self.server.url) as client:
            for version in versions(self.called.url):
                await client.call("POST", "/nodes", version)
            await client.call("PUT", "/nodes/mix.add/route", ROUTE)
            for spec in workflows(self.called.url):
                await client.call("POST", "/workflows", spec)
            killing = asyncio.gather(self._kill(), self._kill_database())
            try:
                await self._load(client)
                await killing
            finally:
                killing.cancel()
            await self._stop_cron(client)
            self.say("waiting for the last runs")
            return await self._reckon(client)

    async def _kill(self) -> None:
        for number in range(self.plan.kills):
            await asyncio.sleep(self._chance.uniform(*self.plan.pause))
            at = time.time()
            self.server.kill()
            self.server.start()
            ready = await self.server.ready()
            self.kills.append(Kill(at, ready))
            self.say(f"kill {number + 1}: ready after {ready - at:.2f} s, {len(self.started)} runs accepted")

    async def _kill_database(self) -> None:
        for number in range(self.plan.database_kills):
            await asyncio.sleep(self._chance.uniform(0.5, 2.0))
            await self.server.ready()  # a server whose database dies while it starts gives up
            self.server.end_postgres(signal.SIGQUIT if number % 2 else signal.SIGKILL)
            self.say("the database's main process is killed")

    # --- what happens meanwhile ----------------------------------------------------------------------------------

    async def _load(self, client: Client) -> None:
        async with asyncio.TaskGroup() as tasks:
            for index, job in enumerate(jobs(self.plan.runs)):
                while len(self.kills) < self.plan.kills * index // self.plan.runs:
                    await asyncio.sleep(0.01)
                await self._room.acquire()
                task = tasks.create_task(self._perform(client, job, self._chance.uniform(0.0, 1.0)))
                task.add_done_callback(lambda _: self._room.release())
                await asyncio.sleep(0.03)

    async def _perform(self, client: Client, job: Job, pause: float) -> None:
        match job.kind:
            case "by_event":
                await self._send(client, "start", job, pause)
                return
            case "by_webhook":
                self.started[job] = await self._deliver(job)
                return
        key = {"Idempotency-Key": f"mix-{self.plan.seed}-{job.n}"}
        body = {"input": {"n": job.n}, "unit_key": str(job.n)}
        run = await client.call("POST", f"/workflows/{job.kind}/execute", body, key)
        self.started[job] = run["id"]
        if job.kind == "order":
            # Some events come before the wait has begun: those that wait are asked for first.
            await self._until(client, run["id"], lambda one: one["steps"][0]["status"] in ("waiting", "completed"))
            await self._send(client, "paid", job, pause)
        elif job.kind == "held":
            await self._told(client, run["id"], "pause", lambda one: one["status"] == "paused")
            await asyncio.sleep(pause)
            await self._told(client, run["id"], "resume", lambda one: one["status"] != "paused")

    async def _send(self, client: Client, name: str, job: Job, pause: float) -> None:
        await asyncio.sleep(pause)
        told = {"name": name, "payload": {"n": job.n}, "dedupe_key": f"{name}-{self.plan.seed}-{job.n}"}
        await client.call("POST", "/events", told)

    async def _deliver(self, job: Job) -> str:
        """Send a webhook until it is answered, as its senders do. Gives the run's id."""
        headers = {
            "Authorization": f"Bearer {KEY}",
            "Content-Type": "application/json",
            "X-Reflux-Delivery": f"delivery-{self.plan.seed}-{job.n}",
        }
        body = json.dumps({"n": job.n})
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    sent = session.post(f"{self.server.url}/webhooks/mix", data=body, headers=headers, timeout=_TIMEOUT)
                    async with sent as answer:
                        if answer.status < 300:
                            return answer.headers["Reflux-Run-Id"]
                        assert answer.status >= 500, await answer.text()
                except (aiohttp.ClientError, TimeoutError, ConnectionError):
                    pass
                await asyncio.sleep(0.05)

    async def _told(self, client: Client, run_id: str, verb: str, done: Callable[[dict[str, Any]], bool]) -> None:
        """Tell a run something until it is so: an answer may be lost, and what was told is refused the second time."""
        while True:
            try:
                await client.call("POST", f"/runs/{run_id}/{verb}", {})
            except RuntimeError:
                run = await client.call("GET", f"/runs/{run_id}")
                if not done(run) and run["status"] not in ("completed", "failed", "cancelled"):
                    await asyncio.sleep(0.05)
                    continue
            return

    async def _until(self, client: Client, run_id: str, done: Callable[[dict[str, Any]], bool]) -> None:
        while not done(await client.call("GET", f"/runs/{run_id}")):
            await asyncio.sleep(0.05)

    async def _stop_cron(self, client: Client) -> None:
        for one in await client.pages("/triggers?type=cron"):
            await client.call("POST", f"/triggers/{one['id']}/pause", {})

    # --- the reckoning -------------------------------------------------------------------------------------------

    async def _reckon(self, client: Client) -> MixResult:
        findings = MixFindings()
        dsn = f"postgresql://postgres@/postgres?host={self.server.home / 'pg'}"
        connection = await asyncpg.connect(dsn)
        try:
            await self._await_ends(connection, findings)
            runs = [dict(row) for row in await connection.fetch(_RUNS)]
            journal = await _journal(connection)
            findings.left_over = await _left_over(connection)
            fired = [dict(row) for row in await connection.fetch(_FIRINGS)]
        finally:
            await connection.close()
        wanted = {job: self.started.get(job) for job in jobs(self.plan.runs)}
        assert {job.kind for job, run_id in wanted.items() if run_id is None} <= {"by_event"}
        judge_mix(wanted, runs, fired, journal, await self.called.calls(), await self.called.gauges(), findings)
        deadline = time.monotonic() + 30 + len(runs) / 50
        while True:
            judge_traces(journal, await client.pages("/traces"), findings)
            if not findings.traces_missing or time.monotonic() > deadline:
                break
            await asyncio.sleep(1.0)
        return MixResult(len(wanted), self.kills, findings, recovery(journal, self.kills))

    async def _await_ends(self, connection: Any, findings: MixFindings) -> None:
        """All runs are over, and all that was recorded has had its effect."""
        deadline = time.monotonic() + _ENDS_WITHIN
        while time.monotonic() < deadline:
            by_trigger = sum(1 for one in jobs(self.plan.runs) if one.kind in STARTED_BY_TRIGGER)
            if (
                await connection.fetchval("SELECT count(*) = 0 FROM runs WHERE finished_at IS NULL")
                and await connection.fetchval("SELECT count(*) >= $1 FROM firings WHERE status = 'started'", by_trigger)
                and not await _left_over(connection)
            ):
                return
            await asyncio.sleep(0.3)
        findings.lost.append(f"not everything has ended within {_ENDS_WITHIN:g} s")


_TIMEOUT = aiohttp.ClientTimeout(15)
_RUNS = "SELECT id::text, workflow, status, input::text, error::text FROM runs"
_FIRINGS = "SELECT key, status, run_id::text, scheduled_for FROM firings"
_LEFT_OVER = {
    "slots": "SELECT count(*) FROM slots",
    "flights": "SELECT count(*) FROM step_flights",
    "tasks": "SELECT count(*) FROM tasks",
    "firings without their run": "SELECT count(*) FROM firings WHERE status = 'reserved'",
    "events that triggers have not seen": "SELECT count(*) FROM events WHERE dispatched_at IS NULL",
    "commands without an answer": "SELECT count(*) FROM run_commands WHERE done_at IS NULL",
}


async def _left_over(connection: Any) -> list[str]:
    found = [(await connection.fetchval(query), name) for name, query in _LEFT_OVER.items()]
    return [f"{count} {name}" for count, name in found if count]


async def _journal(connection: Any) -> dict[str, list[dict[str, Any]]]:
    """Every run's events, as the API shows them."""
    journal: dict[str, list[dict[str, Any]]] = {}
    rows = await connection.fetch("SELECT * FROM run_events ORDER BY run_id, seq")
    for row in rows:
        event = {
            "seq": row["seq"],
            "type": row["type"],
            "step_id": row["step_id"],
            "item": row["item"],
            "attempt": row["attempt"],
            "at": row["at"].isoformat(),
            "data": json.loads(row["data"]),
            "payload": json.loads(row["payload"]) if row["type"] == "run_completed" and row["payload"] else None,
        }
        journal.setdefault(str(uuid.UUID(bytes=row["run_id"].bytes)), []).append(event)
    return journal
