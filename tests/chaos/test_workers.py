"""Workers, their broker and their messages are killed: nothing is lost, nothing is done twice unasked."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.manifest import Effect
from engine.remote.result import RemoteStatus
from tests.engine.remote.owner import call, owner, until
from tests.engine.remote.worker_process import WorkerProcess, several_workers, work_directory
from tests.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.chaos

NewWorker = Callable[..., WorkerProcess]
LEASE = 2.0


@pytest.fixture
def directory() -> Iterator[Path]:
    with work_directory() as path:
        yield path


@pytest.fixture
def new_worker(database: str, redis: RedisServer, directory: Path) -> Iterator[NewWorker]:
    with several_workers(database, redis.url, directory) as make:
        yield make


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


async def test_a_killed_workers_tasks_are_lost_once_its_lease_ends(
    database: str, redis: RedisServer, directory: Path, new_worker: NewWorker
) -> None:
    worker = new_worker().start(LEASE)
    async with owner(database, redis.url, directory) as here:
        calls = [call(step=f"s{n}", params={"seconds": 20}, effect=Effect.UNSAFE) for n in range(5)]
        performing = [asyncio.create_task(here.tasks.perform(one)) for one in calls]
        await until(lambda: len(worker.noted()) == 5)
        worker.kill()
        killed = time.monotonic()
        results = await asyncio.gather(*performing)
        assert {result.status for result in results} == {RemoteStatus.LOST}
        assert LEASE / 2 < time.monotonic() - killed < LEASE + 2


async def test_a_worker_that_slept_too_long_changes_nothing(
    database: str, redis: RedisServer, directory: Path, new_worker: NewWorker
) -> None:
    worker = new_worker().start(LEASE)
    assert worker.process is not None
    async with owner(database, redis.url, directory) as here:
        one = call(params={"seconds": 1.0})
        performing = asyncio.create_task(here.tasks.perform(one))
        await until(worker.noted)
        os.kill(worker.process.pid, signal.SIGSTOP)
        assert (await performing).status is RemoteStatus.LOST
        os.kill(worker.process.pid, signal.SIGCONT)
        after = await here.tasks.perform(call(params={"value": "alive"}))
        assert after.outcome is not None
        assert after.outcome.output == "alive"
        await asyncio.sleep(1.5)  # its late outcome would have been written by now
        assert (await here.store.look([one.task_id]))[0] == {one.task_id: "lost"}


async def test_an_emptied_and_restarted_broker_loses_nothing(
    database: str, redis: RedisServer, directory: Path, new_worker: NewWorker
) -> None:
    async with owner(database, redis.url, directory, patience=0.5) as here:
        early = [call(step=f"a{n}", params={"value": n}) for n in range(20)]
        performing = [asyncio.create_task(here.tasks.perform(one)) for one in early]
        await until(lambda: redis.command("LLEN reflux.test") == b":20\r\n")
        redis.flush()
        worker = new_worker().start()
        assert all(result.outcome for result in await asyncio.gather(*performing))

        redis.kill()
        away = [call(step=f"b{n}", params={"value": n}) for n in range(20)]
        performing = [asyncio.create_task(here.tasks.perform(one)) for one in away]
        assert all(result.outcome for result in await asyncio.gather(*performing))  # fetched, since no message came

        redis.start()
        late = [call(step=f"c{n}", params={"value": n}) for n in range(20)]
        async with asyncio.timeout(6):
            await until(
                lambda: b"reflux.test" in redis.command("CLIENT LIST") or b"brpop" in redis.command("CLIENT LIST")
            )
        began = time.monotonic()
        assert all(result.outcome for result in await asyncio.gather(*(here.tasks.perform(one) for one in late)))
        assert time.monotonic() - began < 2.5  # by messages: the worker would fetch them after 3.5 s
    assert sorted(worker.noted()) == sorted(one.idempotency_key for one in early + away + late)


async def test_the_next_owner_withdraws_what_the_last_one_had_given_up(
    database: str, redis: RedisServer, directory: Path, new_worker: NewWorker
) -> None:
    async with owner(database, redis.url, directory) as first, owner(database, redis.url, directory) as second:
        given_up = call(step="a", params={"value": 1})
        wanted = call(step="b", run=given_up.run_id, params={"value": 2})
        performing = [asyncio.create_task(first.tasks.perform(one)) for one in (given_up, wanted)]
        await until(lambda: redis.command("LLEN reflux.test") == b":2\r\n")
        await second.tasks.withdraw_of(given_up.run_id, lambda step_id, item, number: step_id == "a")
        worker = new_worker().start()
        ended, done = await asyncio.gather(*performing)
        assert ended.status is RemoteStatus.CANCELLED
        assert done.outcome is not None
    assert worker.noted() == [wanted.idempotency_key]


async def test_a_stopped_worker_gives_back_what_may_run_again(
    database: str, redis: RedisServer, directory: Path, new_worker: NewWorker
) -> None:
    first = new_worker(concurrency=2).start(LEASE)
    async with owner(database, redis.url, directory) as here:
        again = call(step="again", params={"seconds": 3, "value": "again"})
        unsafe = call("test.slow_unsafe", step="unsafe", params={"seconds": 30}, effect=Effect.UNSAFE)
        queued = call(step="queued", params={"value": "queued"})
        performing = [asyncio.create_task(here.tasks.perform(one)) for one in (again, unsafe)]
        await until(lambda: len(first.noted()) == 2)
        performing.append(asyncio.create_task(here.tasks.perform(queued)))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        assert await asyncio.to_thread(first.stop) == 0
        assert time.monotonic() - began < 4
        assert (await performing[1]).status is RemoteStatus.LOST
        new_worker().start()
        for result, value in zip(await asyncio.gather(performing[0], performing[2]), ("again", "queued"), strict=True):
            assert result.outcome is not None
            assert result.outcome.output == value
    assert sorted(first.noted()) == sorted(
        [again.idempotency_key] * 2 + [unsafe.idempotency_key, queued.idempotency_key]
    )
