"""The distributed mode as a whole: servers, workers, broker and database as processes, each of which is killed."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bench.chaos.called import CalledServer, free_port
from bench.chaos.server import Client, RefluxServer
from bench.chaos.trial import Plan, Trial
from core.clock import uuid7
from infra.celery.publisher import CeleryPublisher
from tests.chaos.cluster import Cluster, running_cluster
from tests.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.chaos

FINAL = {"completed", "failed", "cancelled"}
RECOVERY_SECONDS = 15.0
LEASE = 2.0


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def cluster(base: Path, database: str, redis: RedisServer) -> Iterator[Cluster]:
    with running_cluster(base, database, redis.url) as running:
        yield running


async def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """What the condition gives, once that is true."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.03)


async def execute(client: Client, name: str, value: Any = None) -> str:
    run: dict[str, Any] = await client.call("POST", f"/workflows/{name}/execute", {"input": value or {}})
    return str(run["id"])


async def save(client: Client, name: str, node: str, params: dict[str, Any], **more: Any) -> None:
    """A workflow of one step that is a worker's, and one that comes after it."""
    steps = [
        {"id": "s", "node": node, "with": params, **more},
        {"id": "after", "node": "transform.map", "needs": ["s"], "with": {"value": "after"}},
    ]
    outputs = {"s": "{{ steps.s.output }}", "after": "{{ steps.after.output }}"}
    await client.call("POST", "/workflows", {"name": name, "steps": steps, "outputs": outputs})


async def events_of(client: Client, run_id: str, kind: str) -> list[dict[str, Any]]:
    return [one for one in await client.pages(f"/runs/{run_id}/events") if one["type"] == kind]


async def waits(client: Client, run_id: str) -> str | None:
    run = await client.call("GET", f"/runs/{run_id}")
    why = run["steps"][0].get("waiting_for")
    return None if why is None else why["reason"]


async def figures(client: Client, group: str) -> dict[str, Any]:
    found = (await client.call("GET", "/workers"))["groups"]
    return next((one for one in found if one["group"] == group), {"queued": 0, "running": 0, "workers": 0})


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


# --- the same workflow -----------------------------------------------------------------------------------------------


def everything(called: str) -> dict[str, Any]:
    once_more = {"max_attempts": 2, "initial": "10ms", "on": ["network"]}
    items = [{"id": "one", "node": "test.echo", "with": {"value": "{{ input.item + 100 }}"}}]
    turn = [{"id": "n", "node": "http.request", "with": {"url": f"{called}/add/{{{{ input.loop.index }}}}"}}]
    steps: list[dict[str, Any]] = [
        {"id": "get", "node": "http.request", "with": {"url": f"{called}/add/{{{{ input.n }}}}?ms=20"}},
        {
            "id": "post",
            "node": "http.request",
            "with": {
                "method": "POST",
                "url": f"{called}/add/{{{{ steps.get.output.body.v }}}}",
                "headers": {"X-Token": "{{ secrets.TOKEN }}"},
            },
        },
        {"id": "each", "node": "test.echo", "foreach": [1, 2, 3], "with": {"value": "{{ item * 10 }}"}},
        {"id": "big", "node": "test.echo", "with": {"value": "{{ input.big }}"}},
        {"id": "slept", "node": "user.sleep", "with": {"seconds": 0.05}},
        {"id": "flaky", "node": "user.fails_until", "with": {"attempt": 2}, "retry": once_more},
        {"id": "items", "node": "flow.foreach", "with": {"items": [1, 2], "steps": items}},
        {"id": "loop", "node": "flow.loop", "with": {"until": "output.n.body.v >= 2", "steps": turn}},
        {"id": "bad", "node": "test.fail", "on_error": "continue"},
        {"id": "nap", "node": "flow.delay", "with": {"seconds": 0.05}},
    ]
    outputs = {one["id"]: f"{{{{ steps.{one['id']}.output }}}}" for one in steps if one["id"] not in ("bad", "get")}
    outputs |= {"error": "{{ steps.bad.error.class }}", "v": "{{ steps.get.output.body.v }}"}
    outputs["post"] = "{{ steps.post.output.body.v }}"
    outputs["loop"] = "{{ steps.loop.output.iterations }}"
    return {"name": "everything", "steps": steps, "outputs": outputs}


async def perform_everything(server: RefluxServer, called: CalledServer, cluster: Cluster) -> dict[str, Any]:
    """What can be seen of the run from outside, without what differs from run to run."""
    await server.ready()
    before = len(cluster.noted())
    async with Client(server.url) as client:
        await client.call("POST", "/secrets", {"name": "TOKEN", "value": "open-sesame-0815"})
        await client.call("POST", "/workflows", everything(called.url))
        run_id = await execute(client, "everything", {"n": 7, "big": "x" * 50_000})
        run = await client.run_until(run_id, FINAL, 30)
        steps = {one["id"]: (one["status"], one["attempts"]) for one in run["steps"]}
        wanted = sum(attempts for _, attempts in steps.values())
        rows: list[dict[str, Any]] = []
        while len(rows) < wanted:
            rows = await client.pages(f"/traces?run_id={run_id}")
            await asyncio.sleep(0.1)
        traces = sorted(
            (one["step_id"], one.get("item", -1), one["attempt"], one["node"], one["node_version"], one["status"])
            for one in rows
        )
    calls = sorted(key.partition(":")[2] for key in cluster.noted()[before:])
    return {"run": (run["status"], run["outputs"]), "steps": steps, "traces": traces, "calls": calls}


async def test_the_same_workflow_gives_the_same(cluster: Cluster, called: CalledServer) -> None:
    for groups in ("http", "test", "user"):
        cluster.worker(groups).start(ready=False)
    alone = cluster.server("alone", REFLUX_DATABASE_URL=None, REFLUX_BROKER_URL=None, REFLUX_OBJECT_STORE_URL=None)
    there = cluster.server("there")
    embedded = await perform_everything(alone, called, cluster)
    assert embedded["run"][0] == "completed"
    assert embedded["run"][1]["error"] == "rate_limited"
    distributed = await perform_everything(there, called, cluster)
    assert distributed == embedded
    async with Client(there.url) as client:
        lives = (await client.call("GET", "/workers"))["workers"]
        assert sorted(one["groups"] for one in lives) == [["http"], ["test"], ["user"]]
        for group in ("http", "test", "user"):
            found = await figures(client, group)
            assert (found["queued"], found["running"], found["workers"]) == (0, 0, 1)


# --- who is killed ---------------------------------------------------------------------------------------------------


async def test_owner_and_workers_are_killed_in_the_middle_of_steps(
    cluster: Cluster, called: CalledServer, record_property: Callable[[str, object], None]
) -> None:
    """With the leases as they are: everybody's work goes on within 15 seconds."""
    one, two = cluster.server("one"), cluster.server("two")
    http, user = cluster.worker("http"), cluster.worker("user")
    test = cluster.worker("test")
    for worker in (http, user, test):
        worker.start(ready=False)
    await asyncio.gather(one.ready(), two.ready())
    async with Client(one.url) as first, Client(two.url) as second:
        await save(second, "get", "http.request", {"url": f"{called.url}/add/1?ms=1500"})
        await save(second, "charge", "http.request", {"method": "POST", "url": f"{called.url}/hang"})
        await save(second, "sleep", "user.sleep", {"seconds": 1.5})
        await save(second, "echo", "test.echo", {"value": "once", "seconds": "{{ input.seconds }}"})
        again = [await execute(second, "get"), await execute(second, "sleep")]
        charge = await execute(second, "charge")
        # The owner dies: a worker's result is there before the next owner is, and one comes later.
        kept = [await execute(first, "echo", {"seconds": one}) for one in (2.0, 14.0)]
        dropped = await execute(first, "echo", {"seconds": 60})
        lost = [await execute(first, "get"), await execute(first, "sleep")]  # their owner and their worker die together
        both = await execute(first, "charge")
        await until(lambda: len(cluster.noted()) == 3)
        for group, wanted in (("http", 4), ("user", 2)):
            await until(partial(running, second, group, wanted))
        http.kill()
        user.kill()
        one.kill()
        killed = time.time()
        for worker in (http, user):
            worker.start(ready=False)

        taken = []
        for run_id in (*again, *lost):
            run = await second.run_until(run_id, FINAL, 40)
            assert (run["status"], run["steps"][0]["attempts"]) == ("completed", 2)
            started = await events_of(second, run_id, "attempt_started")
            taken.append(seconds([each for each in started if each["step_id"] == "s"][1]["at"]) - killed)
            assert len(await events_of(second, run_id, "attempt_succeeded")) == 2
        for run_id in (charge, both):
            run = await second.run_until(run_id, {"waiting"}, 10)
            assert run["steps"][0]["status"] == "outcome_unknown"
            assert len(await called.calls_of(run_id)) == 1
            (gone,) = await events_of(second, run_id, "attempt_failed")
            taken.append(seconds(gone["at"]) - killed)
            await second.call("POST", f"/runs/{run_id}/steps/s/resolve", {"outcome": "succeeded", "output": 7})
            assert (await second.run_until(run_id, FINAL, 5))["outputs"] == {"s": 7, "after": "after"}
        for run_id in kept:
            run = await second.run_until(run_id, FINAL, 20)
            assert (run["status"], run["outputs"], run["recoveries"]) == (
                "completed",
                {"s": "once", "after": "after"},
                1,
            )
            (recovered,) = await events_of(second, run_id, "run_recovered")
            taken.append(seconds(recovered["at"]) - killed)
            assert cluster.noted().count(f"{run_id}:s") == 1
            assert run["steps"][0]["attempts"] == 1
        asked = time.monotonic()
        await second.call("POST", f"/runs/{dropped}/cancel", {})
        assert (await second.call("GET", f"/runs/{dropped}"))["status"] == "cancelled"
        assert time.monotonic() - asked < 1
        await until(lambda: f"{dropped}:s" in cluster.noted("stop"), 2.5)
        assert cluster.noted().count(f"{dropped}:s") == 1
    record_property("recovery_seconds", [round(each, 2) for each in taken])
    print(f"went on after {', '.join(f'{each:.1f}' for each in sorted(taken))} s")
    assert max(taken) <= RECOVERY_SECONDS


async def running(client: Client, group: str, wanted: int) -> bool:
    return bool((await figures(client, group))["running"] == wanted)


async def test_waits_stops_and_messages(
    cluster: Cluster, called: CalledServer, redis: RedisServer, database: str
) -> None:
    server = cluster.server("one")
    await server.ready()
    async with Client(server.url) as client:
        await save(client, "echo", "test.echo", {"value": "{{ input.n }}", "seconds": "{{ input.seconds }}"})
        await save(client, "stubborn", "user.stubborn", {"seconds": 20})
        worker = await no_worker(cluster, client)
        await nobody_stops_it(client)
        await messages(cluster, client, redis, database)
        # The last kind of worker dies in the middle of a step.
        run_id = await execute(client, "echo", {"n": 5, "seconds": 1})
        await until(lambda: f"{run_id}:s" in cluster.noted())
        worker.kill()
        killed = time.monotonic()
        worker.start(ready=False)
        run = await client.run_until(run_id, FINAL, 15)
        assert time.monotonic() - killed < LEASE + 1 + 2 + 2
        assert (run["status"], run["steps"][0]["attempts"]) == ("completed", 2)
        assert cluster.noted().count(f"{run_id}:s") == 2
    connection = await asyncpg.connect(database)
    try:
        # What was withdrawn is cleared with its run, after a minute; all else has been forgotten.
        await until(lambda: connection.fetchval("SELECT count(*) = 0 FROM tasks WHERE status <> 'cancelled'"), 5)
    finally:
        await connection.close()


async def no_worker(cluster: Cluster, client: Client) -> Any:
    """Nobody performs such steps: they say so, can be cancelled and paused, and go on when somebody comes."""
    runs = [await execute(client, "echo", {"n": n, "seconds": 0}) for n in range(3)]
    for run_id in runs:
        assert await until(partial(waits, client, run_id), 4) == "no_worker"
    found = await figures(client, "test")
    assert (found["queued"], found["running"], found["workers"]) == (3, 0, 0)
    for verb, wanted in (("cancel", "cancelled"), ("pause", "paused")):
        asked = time.monotonic()
        run_id = runs[0] if verb == "cancel" else runs[1]
        await client.call("POST", f"/runs/{run_id}/{verb}", {})
        assert (await client.call("GET", f"/runs/{run_id}"))["status"] == wanted
        assert time.monotonic() - asked < 1
    worker = cluster.worker("test,user", lease=LEASE).start()
    assert (await client.run_until(runs[2], FINAL, 5))["outputs"] == {"s": 2, "after": "after"}
    assert f"{runs[0]}:s" not in cluster.noted()
    await client.call("POST", f"/runs/{runs[1]}/resume", {})
    assert (await client.run_until(runs[1], FINAL, 5))["status"] == "completed"
    return worker


async def nobody_stops_it(client: Client) -> None:
    """A step that ignores its cancellation, in a worker: the run does not wait for it, and the worker not for long."""
    paused, run_id = [await execute(client, "stubborn") for _ in range(2)]
    await until(lambda: running(client, "user", 2))
    asked = time.monotonic()
    await client.call("POST", f"/runs/{paused}/pause", {})
    assert (await client.call("GET", f"/runs/{paused}"))["status"] == "paused"
    for one in (run_id, paused):
        await client.call("POST", f"/runs/{one}/cancel", {})
        assert (await client.call("GET", f"/runs/{one}"))["status"] == "cancelled"
    assert time.monotonic() - asked < 1
    await until(lambda: running(client, "user", 0), 1)

    async def free() -> bool:
        return all(one["running"] == 0 for one in (await client.call("GET", "/workers"))["workers"])

    await until(free, 2)


async def test_an_owner_dies_before_it_has_withdrawn_a_task(cluster: Cluster, database: str) -> None:
    """The run is cancelled for good, and its task is not: nobody may perform it any more."""
    server = cluster.server("one")
    await server.ready()
    async with Client(server.url) as client:
        await save(client, "echo", "test.echo", {"value": 1})
        run_id = await execute(client, "echo")
        connection = await asyncpg.connect(database)
        try:
            await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM tasks"))
            async with connection.transaction():
                await connection.execute("SELECT 1 FROM tasks FOR UPDATE")  # so the owner does not come to it
                await client.call("POST", f"/runs/{run_id}/cancel", {})
                server.kill()
            cluster.worker("test").start()
            publisher = CeleryPublisher(cluster.broker)
            await publisher.publish([("test", await connection.fetchval("SELECT id FROM tasks"))])
            await publisher.aclose()
            server.start()
            await until(lambda: connection.fetchval("SELECT count(*) = 1 FROM tasks WHERE status = 'cancelled'"))
        finally:
            await connection.close()
    assert cluster.noted() == []


async def messages(cluster: Cluster, client: Client, redis: RedisServer, database: str) -> None:
    """Messages are lost, doubled, and about nothing."""
    busy = [await execute(client, "echo", {"n": n, "seconds": 2}) for n in range(8)]
    await until(lambda: running(client, "test", 8))
    queued = [await execute(client, "echo", {"n": n, "seconds": 0.2}) for n in range(16)]
    await until(lambda: waiting_messages(redis))
    redis.kill()
    redis.start()
    publisher, connection = CeleryPublisher(redis.url), await asyncpg.connect(database)
    try:
        rows = await connection.fetch("SELECT id FROM tasks WHERE status = 'claimed'")
        assert rows
        doubled = [("test", row["id"]) for row in rows for _ in range(3)]
        await publisher.publish([*doubled, ("test", uuid7(1, 2))])
        for run_id in (*busy, *queued):
            assert (await client.run_until(run_id, FINAL, 25))["status"] == "completed"
        await publisher.publish(doubled)  # and once more, when all of it is over
    finally:
        await publisher.aclose()
        await connection.close()
    noted = cluster.noted()
    assert [noted.count(f"{run_id}:s") for run_id in (*busy, *queued)] == [1] * 24


def waiting_messages(redis: RedisServer) -> bool:
    return int(redis.command("LLEN", "reflux.test")[1:].strip()) > 0


# --- under load ------------------------------------------------------------------------------------------------------


async def test_everything_is_killed_under_load(base: Path, redis: RedisServer, called: CalledServer) -> None:
    """Server, workers, PostgreSQL (immediate shutdown, and killed) and Redis, while runs go on."""
    home = base / "s" / "h"
    home.parent.mkdir(mode=0o755)
    dsn = f"postgresql://postgres@/postgres?host={home / 'pg'}"
    with running_cluster(base, dsn, redis.url) as cluster:
        environment = {**cluster.embedded(), "REFLUX_BROKER_URL": redis.url}
        environment["REFLUX_OBJECT_STORE_URL"] = f"file://{base}/objects"
        with RefluxServer(home, free_port(), environment) as server:
            await server.ready()
            workers = [cluster.worker("http", 16, LEASE).start(ready=False) for _ in range(2)]

            async def outage() -> None:
                for turn in range(3):
                    await asyncio.sleep(1.5)
                    workers[turn % 2].kill()
                    workers[turn % 2].start(ready=False)
                    await asyncio.sleep(0.5)
                    if turn % 2:
                        redis.kill()
                        await asyncio.to_thread(redis.start)
                    else:
                        await server.ready()
                        server.end_postgres(signal.SIGQUIT)

            plan = Plan(runs=30, steps=10, kills=3, seed=3, pause=(1.0, 3.0), database_kills=1)
            result = await Trial(server, called, plan, outage).run()
    print(result)
    assert result.findings.good, result.findings
    assert (result.runs, len(result.kills)) == (30, 3)
    assert result.findings.lost_attempts > 0, "no kill hit an attempt in flight: the test shows nothing"
