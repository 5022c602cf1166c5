import asyncio
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import httpx
from fastapi import FastAPI

from api.models.worker import WorkerList
from api.routes.workers import router
from core.account import Role
from core.errors import ErrorClass
from core.ids import DEFAULT_WORKSPACE
from core.manifest import Effect
from core.trace import TraceStatus
from engine.expression.secret import SecretName, SecretText
from engine.remote.result import RemoteStatus
from infra.clock import SystemClock
from infra.objects import Objects
from infra.postgres.api_keys import ApiKeys
from infra.postgres.connection import create_engine
from infra.postgres.secrets import SecretKey, Secrets
from infra.postgres.workers import Workers
from tests.engine.remote.conftest import Served
from tests.engine.remote.owner import call, owner, until
from tests.engine.remote.worker_process import SECRET_KEY, WorkerProcess
from tests.redis_server import RedisServer

NewWorker = Callable[..., WorkerProcess]


async def test_outcomes_come_back(served: Served) -> None:
    async with owner(served.dsn, served.broker, served.directory) as here:
        good = await here.tasks.perform(call(params={"value": {"a": [1, "\x00é"]}}))
        assert good.status is RemoteStatus.ENDED
        assert good.outcome is not None
        assert good.outcome.output == {"a": [1, "\x00é"]}
        assert good.outcome.encoded == '{"a":[1,"\\u0000é"]}'.encode()
        assert good.outcome.usage.metrics == {"points": 3.0}
        assert good.outcome.usage.cost_usd == 0.25

        bad = (await here.tasks.perform(call("test.fail", effect=Effect.UNSAFE))).outcome
        assert bad is not None
        assert bad.error is not None
        assert (bad.error.error_class, bad.error.retry_after) == (ErrorClass.RATE_LIMITED, 2.5)
        assert (bad.error.detail, bad.error.outcome_unknown) == ({"status": 429}, True)

        late = (await here.tasks.perform(call(params={"seconds": 30}, timeout=0.2))).outcome
        assert late is not None
        assert late.status is TraceStatus.TIMEOUT

        plain = (await here.tasks.perform(call("test.plain"))).outcome
        assert plain is not None
        assert isinstance(plain.output, int)
        assert plain.output not in [one.process.pid for one in served.workers if one.process]  # a child of it

        strange = (await here.tasks.perform(call("test.nothing"))).outcome
        assert strange is not None
        assert strange.error is not None
        assert "REFLUX_NODES" in strange.error.message


async def test_a_doubled_message_runs_once(served: Served) -> None:
    async with owner(served.dsn, served.broker, served.directory) as here:
        calls = [call(step=f"s{n}", params={"seconds": 0.3, "value": n}) for n in range(10)]
        performing = [asyncio.create_task(here.tasks.perform(one)) for one in calls]
        for _ in range(5):
            await here.publisher.publish([(one.group, one.task_id) for one in calls])
        results = await asyncio.gather(*performing)
        assert [result.outcome.output for result in results if result.outcome] == list(range(10))
        await here.publisher.publish([(one.group, one.task_id) for one in calls])
        await asyncio.sleep(0.2)
    assert sorted(served.begun(calls)) == sorted(one.idempotency_key for one in calls)


async def test_the_next_owner_waits_for_the_same_task(served: Served) -> None:
    one = call(params={"seconds": 1.0, "value": "once"})
    async with owner(served.dsn, served.broker, served.directory) as dead:
        asked = asyncio.create_task(dead.tasks.perform(one))
        await until(lambda: served.begun([one]))
        asked.cancel()
    async with (
        owner(served.dsn, served.broker, served.directory) as here,
        owner(served.dsn, served.broker, served.directory) as zombie,
    ):
        asked = asyncio.create_task(here.tasks.perform(one))
        await asyncio.sleep(0.1)
        late = asyncio.create_task(zombie.tasks.perform(one))  # takes the waiting away; both hear of the end
        for result in await asyncio.gather(asked, late):
            assert result.outcome is not None
            assert result.outcome.output == "once"
        again = await here.tasks.perform(one)
        assert again.outcome is not None
        await here.tasks.forget([one.task_id])
        assert await here.store.look([one.task_id]) == ({}, {"test"})
    assert served.begun([one]) == [one.idempotency_key]


async def test_a_withdrawn_task_stops(served: Served) -> None:
    async with owner(served.dsn, served.broker, served.directory) as here:
        one = call(params={"seconds": 20})
        performing = asyncio.create_task(here.tasks.perform(one))
        await until(lambda: served.begun([one]))
        began = time.monotonic()
        await here.tasks.withdraw([one.task_id])
        assert (await performing).status is RemoteStatus.CANCELLED
        await until(lambda: one.idempotency_key in served.workers[0].noted("stop"))
        assert time.monotonic() - began < 2.0  # the worker looks each second


async def test_large_payloads_go_by_reference(served: Served) -> None:
    large = {"text": "é" * 300_000}
    async with owner(served.dsn, served.broker, served.directory) as here:
        one = call(params={"value": large})
        result = await here.tasks.perform(one)
        assert result.outcome is not None
        assert result.outcome.output == large
        row = await row_of(served.dsn, one.task_id)
        assert (row["parameters"], row["output"]) == (None, None)
        assert row["parameters_ref"] != row["output_ref"]


async def test_the_route_shows_the_workers(served: Served) -> None:
    engine = create_engine(served.dsn)
    keys = ApiKeys(engine, SystemClock())
    key = await keys.create(DEFAULT_WORKSPACE, "reader", Role.VIEWER, "test")
    app = FastAPI()
    app.include_router(router)
    app.state.services = SimpleNamespace(
        api_keys=keys,
        stores=SimpleNamespace(workers=Workers(engine, Objects.open(served.directory / "home" / "objects"))),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/workers", headers={"Authorization": f"Bearer {key[1]}"})
    assert answer.status_code == 200
    shown = WorkerList.model_validate_json(answer.content)
    assert {one.pid for one in shown.workers} == {one.process.pid for one in served.workers if one.process}
    assert [(one.group, one.workers) for one in shown.groups] == [("test", 2)]
    await engine.dispose()


async def test_secrets_are_in_the_worker_alone(
    database: str, redis: RedisServer, directory: Path, new_worker: NewWorker
) -> None:
    text = "hunter2-and-something-longer"
    engine = create_engine(database)
    await Secrets(engine, SystemClock(), SecretKey.from_text(SECRET_KEY)).put(DEFAULT_WORKSPACE, "TOKEN", text, "test")
    await engine.dispose()
    token = SecretText(("Bearer ", SecretName("TOKEN")))
    async with owner(database, redis.url, directory) as here:
        one = call("test.reveal", params={"token": token}, secret_names=("TOKEN",))
        performing = asyncio.create_task(here.tasks.perform(one))
        waiting: list[bytes] = []

        async def queued() -> None:
            while not waiting or str(one.task_id).encode() not in waiting[0]:
                waiting[:] = [redis.command("LRANGE reflux.test 0 -1")]
                await asyncio.sleep(0.02)

        await asyncio.wait_for(queued(), 5)
        seen = waiting[0] + str(dict(await row_of(database, one.task_id))).encode()
        worker = new_worker().start()
        result = await performing
        assert result.outcome is not None
        assert result.outcome.output["length"] == len(f"Bearer {text}")
        assert text not in str(result.outcome.output)
        seen += str(dict(await row_of(database, one.task_id))).encode() + worker.log.encode()
    assert b"TOKEN" in seen
    assert b"hunter2" not in seen


async def test_who_waits_is_told_why(database: str, redis: RedisServer, directory: Path, new_worker: NewWorker) -> None:
    told: list[tuple[str, str]] = []
    other = new_worker("other").start()
    async with owner(database, redis.url, directory) as here:
        performing = asyncio.create_task(
            here.tasks.perform(call(params={"seconds": 1.5}), lambda *one: told.append(one))
        )
        await until(lambda: told)
        assert told == [("no_worker", "no worker serves the group `test`; start one with: reflux worker --nodes test")]
        assert [(one.group, one.queued, one.workers) for one in await here.workers.figures()] == [
            ("other", 0, 1),
            ("test", 1, 0),
        ]
        new_worker().start()
        assert (await performing).status is RemoteStatus.ENDED
        assert told[-1] == ("running", "")
        assert [one.groups for one in await here.workers.live()] == [("other",), ("test",)]
        assert (other.stop(), [one.groups for one in await here.workers.live()]) == (0, [("test",)])


async def test_tasks_of_finished_runs_are_cleared(database: str, redis: RedisServer, directory: Path) -> None:
    async with owner(database, redis.url, directory) as here:
        done, active = call(), call()
        for one in (done, active):
            await here.store.add(one.task_id, [one.row()])
        await execute(database, "UPDATE tasks SET created_at = created_at - interval '2 minutes'")
        await execute(
            database,
            "INSERT INTO runs (id, workspace, workflow_id, workflow, workflow_version, status, context, pins, unit_key,"
            " created_by, created_at) VALUES ($1, 'default', $1, 'w', 1, 'running', '{}', '{}', '', '', now())",
            active.run_id,
        )
        await here.store.clear(100)
        assert set((await here.store.look([done.task_id, active.task_id]))[0]) == {active.task_id}


async def row_of(dsn: str, task_id: uuid.UUID) -> asyncpg.Record:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchrow("SELECT * FROM tasks WHERE id = $1", task_id)
    finally:
        await connection.close()


async def execute(dsn: str, statement: str, *values: object) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()
