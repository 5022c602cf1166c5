"""Two or more processes' limiters on one real database, with owners and runs to hold slots."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from core.ids import OwnerId, RunId
from core.limit import SlotAsk
from core.spec import Rate
from engine.limits.limiter import Limiter
from infra.clock import SystemClock
from infra.postgres.connection import create_engine
from infra.postgres.slots import Slots

_RUN = (
    "INSERT INTO runs (id, workspace, workflow_id, workflow, workflow_version, status, owner_id, context, pins,"
    " unit_key, created_by, created_at) VALUES ($1, 'here', $1, 'flow', 1, 'running', $2, '{}', '{}', '', 'ann', now())"
)


@dataclass
class Process:
    """One process: its owner, its limiter, its connections."""

    owner: OwnerId
    limiter: Limiter
    engine: AsyncEngine
    waits: list[tuple[str, str]] = field(default_factory=list)

    def on_wait(self, reason: str, detail: str) -> None:
        self.waits.append((reason, detail))


class Room:
    """See the module."""

    def __init__(self, dsn: str, stack: AsyncExitStack, admin: asyncpg.Connection) -> None:
        self.dsn = dsn
        self.stack = stack
        self.admin = admin
        self.clock = SystemClock()

    async def process(self, lease: float = 60.0) -> Process:
        owner = await self.owner(lease)
        engine = create_engine(self.dsn)
        self.stack.push_async_callback(engine.dispose)
        limiter = Limiter(Slots(engine), self.clock)
        limiter.owner = owner
        limiter.start()
        self.stack.push_async_callback(limiter.aclose)
        return Process(owner, limiter, engine)

    async def owner(self, lease: float = 60.0) -> OwnerId:
        owner = OwnerId(self.clock.new_id())
        await self.admin.execute(
            "INSERT INTO owners (id, started_at, expires_at, hostname, pid)"
            " VALUES ($1, now(), now() + make_interval(secs => $2), 'h', 1)",
            owner,
            lease,
        )
        return owner

    async def fence(self, owner: OwnerId) -> None:
        await self.admin.execute("UPDATE owners SET fenced = true, expires_at = now() WHERE id = $1", owner)

    async def run(self, owner: OwnerId) -> RunId:
        run_id = RunId(self.clock.new_id())
        await self.admin.execute(_RUN, run_id, owner)
        return run_id

    async def finish(self, run_id: RunId) -> None:
        await self.admin.execute("UPDATE runs SET finished_at = now(), status = 'failed' WHERE id = $1", run_id)

    async def slots(self) -> list[tuple[str, bool]]:
        rows = await self.admin.fetch("SELECT holder, granted_at IS NOT NULL AS granted FROM slots ORDER BY asked_at")
        return [(row["holder"], row["granted"]) for row in rows]

    async def until(self, count: int) -> None:
        """Wait until there are so many rows of slots."""
        async with asyncio.timeout(5):
            while len(await self.slots()) != count:
                await asyncio.sleep(0.01)


def ask(
    run_id: RunId,
    holder: str,
    most: int | None = 1,
    *,
    rate: Rate | None = None,
    scope: str = "node:here:x",
    workflow: str = "a",
    priority: int = 5,
) -> SlotAsk:
    return SlotAsk(scope, most, rate, holder, run_id, workflow, priority)


@asynccontextmanager
async def open_room(dsn: str) -> AsyncIterator[Room]:
    async with AsyncExitStack() as stack:
        admin = await asyncpg.connect(dsn)
        stack.push_async_callback(admin.close)
        yield Room(dsn, stack, admin)
