"""An owner's side of remote attempts in this process, on a real database and a real broker."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.ids import DEFAULT_WORKSPACE, RunId, StepId
from core.manifest import Effect
from engine.remote.call import RemoteCall
from engine.remote.sweeper import Sweeper
from engine.remote.tasks import RemoteTasks
from infra.celery.publisher import CeleryPublisher
from infra.clock import SystemClock
from infra.objects import Objects
from infra.postgres.connection import create_engine
from infra.postgres.tasks import Tasks
from infra.postgres.workers import Workers


@dataclass
class Owner:
    tasks: RemoteTasks
    store: Tasks
    workers: Workers
    publisher: CeleryPublisher
    sweeper: Sweeper


@asynccontextmanager
async def owner(
    dsn: str, broker: str, directory: Path, patience: float = 5.0, sweep: float = 0.3
) -> AsyncIterator[Owner]:
    database = create_engine(dsn)
    objects = Objects.open(directory / "home" / "objects")
    store = Tasks(database, objects, patience)
    publisher = CeleryPublisher(broker)
    tasks = RemoteTasks(store, publisher, SystemClock())
    sweeper = Sweeper(store, publisher, sweep)
    sweeping = asyncio.create_task(sweeper.run())
    try:
        yield Owner(tasks, store, Workers(database, objects), publisher, sweeper)
    finally:
        sweeping.cancel()
        await asyncio.wait((sweeping,))
        await tasks.aclose()
        await publisher.aclose()
        await database.dispose()


def call(node: str = "test.echo", step: str = "s", run: uuid.UUID | None = None, **given: Any) -> RemoteCall:
    run_id = RunId(run or SystemClock().new_id())
    fields: dict[str, Any] = {
        "item": -1,
        "attempt": 1,
        "workspace": DEFAULT_WORKSPACE,
        "node_version": "1.0.0",
        "effect": Effect.IDEMPOTENT,
        "params": {},
        "secret_names": (),
        "idempotency_key": f"{run_id}:{step}",
        "timeout": 30.0,
        **given,
    }
    return RemoteCall(run_id=run_id, step_id=StepId(step), node=node, **fields)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
