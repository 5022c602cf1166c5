"""The limiter on a real database: several processes, crashes, and who comes first."""

import asyncio
import random
from collections import Counter
from contextlib import suppress

import asyncpg
import pytest

from core.errors import Unavailable
from core.limit import SlotAsk
from core.spec import Rate
from infra.postgres.embedded import EmbeddedPostgres
from tests.engine.limits.room import Process, Room, ask


async def hold(process: Process, wish: SlotAsk, order: list[str], seconds: float = 0.0) -> None:
    slots = await process.limiter.acquire([wish], process.on_wait)
    order.append(wish.holder)
    try:
        await asyncio.sleep(seconds)
    finally:
        slots.release()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_never_more_than_the_limit_over_two_processes(room: Room, seed: int) -> None:
    chance = random.Random(seed)
    processes = [await room.process(), await room.process()]
    runs = [await room.run(one.owner) for one in processes]
    most = {"node:here:n": 5, "step:w:a": 3, "step:w:b": 2}
    now: Counter[str] = Counter()
    highest: Counter[str] = Counter()
    done = 0

    async def work(n: int) -> None:
        nonlocal done
        await asyncio.sleep(chance.random() * 0.2)
        process = processes[n % 2]
        scopes = chance.choice([["node:here:n"], ["node:here:n", "step:w:a"], ["step:w:b", "step:w:a"]])
        asks = [ask(runs[n % 2], f"h{n}", most[scope], scope=scope, workflow=str(n % 3)) for scope in scopes]
        slots = await process.limiter.acquire(asks, process.on_wait)
        now.update(scopes)
        try:
            for scope in scopes:
                assert now[scope] <= most[scope]
                highest[scope] = max(highest[scope], now[scope])
            await asyncio.sleep(0.02 + chance.random() * 0.02)
        finally:
            now.subtract(scopes)
            slots.release()
        done += 1

    async def give_up(n: int) -> None:
        task = asyncio.create_task(work(n))
        await asyncio.sleep(chance.random() * 0.4)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async with asyncio.timeout(20):
        await asyncio.gather(*(work(n) for n in range(60)), *(give_up(n) for n in range(60, 90)))
    assert done >= 60
    assert min(highest[scope] for scope in most) >= 2  # or nothing was tested
    await room.until(0)
    assert {reason for one in processes for reason, _ in one.waits} == {"concurrency_limit"}


async def test_nobody_waits_in_a_circle(room: Room) -> None:
    process = await room.process()
    run = await room.run(process.owner)

    async def both(n: int) -> None:
        asks = [ask(run, f"h{n}", scope=scope) for scope in ("a", "b")]
        slots = await process.limiter.acquire(asks if n % 2 else asks[::-1], process.on_wait)
        await asyncio.sleep(0.001)
        slots.release()

    async with asyncio.timeout(10):
        await asyncio.gather(*(both(n) for n in range(20)))
    await room.until(0)


async def test_a_rate_is_kept_over_two_processes(room: Room) -> None:
    processes = [await room.process(), await room.process()]
    run = await room.run(processes[0].owner)
    rate = Rate(calls=50, per=1.0, burst=5)
    starts: list[float] = []

    async def call(n: int) -> None:
        process = processes[n % 2]
        await process.limiter.acquire([ask(run, f"c{n}", None, rate=rate)], process.on_wait)
        starts.append(room.clock.monotonic())

    calls = [asyncio.create_task(call(n)) for n in range(120)]
    await asyncio.sleep(1.0)
    async with asyncio.timeout(10):
        await asyncio.gather(*calls)
    first = [one - min(starts) for one in starts]
    assert 48 <= sum(one <= 1.0 for one in first) <= 58
    assert 108 <= sum(one <= 2.1 for one in first) <= 112
    assert sum(one < 0.01 for one in first) >= 4  # the burst
    assert await room.slots() == []
    assert processes[0].waits[0] == ("rate_limit", "the node x has a limit of 50 in 1s")


async def test_a_fast_rate_is_reached(room: Room) -> None:
    process = await room.process()
    run = await room.run(process.owner)
    started = room.clock.monotonic()
    await asyncio.gather(
        *(
            process.limiter.acquire([ask(run, f"c{n}", None, rate=Rate(calls=1_000, per=1.0))], process.on_wait)
            for n in range(400)
        )
    )
    assert 0.38 <= room.clock.monotonic() - started < 0.8


async def test_the_most_urgent_first(room: Room) -> None:
    process = await room.process()
    run = await room.run(process.owner)
    first = await process.limiter.acquire([ask(run, "first")], process.on_wait)
    order: list[str] = []
    wishes = [ask(run, f"p{n}", priority=n, workflow=str(n % 2)) for n in (3, 9, 0, 7, 5)]
    tasks = [asyncio.create_task(hold(process, wish, order)) for wish in wishes]
    await room.until(6)
    first.release()
    await asyncio.gather(*tasks)
    assert order == ["p9", "p7", "p5", "p3", "p0"]


@pytest.mark.parametrize(("most", "rate"), [(1, None), (4, None), (None, Rate(calls=200, per=1.0))])
async def test_a_crowd_does_not_starve_others(room: Room, most: int | None, rate: Rate | None) -> None:
    process = await room.process()
    run = await room.run(process.owner)
    order: list[str] = []
    crowd = [ask(run, f"a{n}", most, rate=rate, workflow="a") for n in range(100)]
    tasks = [asyncio.create_task(hold(process, wish, order, 0.002)) for wish in crowd]
    while len(order) < 4:
        await asyncio.sleep(0.001)
    seen = len(order)
    few = [ask(run, f"b{n}", most, rate=rate, workflow="b") for n in range(5)]
    tasks += [asyncio.create_task(hold(process, wish, order, 0.002)) for wish in few]
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    last = max(order.index(f"b{n}") for n in range(5))
    assert last - seen < (20 if most != 1 else 13) + (50 if rate else 0)
    assert [one for one in order if one[0] == "a"] == [f"a{n}" for n in range(100)] or most != 1


async def test_places_are_shared_evenly_between_workflows(room: Room) -> None:
    process = await room.process()
    run = await room.run(process.owner)
    held = [await process.limiter.acquire([ask(run, f"a{n}", 6, workflow="a")], process.on_wait) for n in range(6)]
    order: list[str] = []
    wishes = [ask(run, f"{flow}x{n}", 6, workflow=flow) for flow in "abc" for n in range(6)]
    tasks = [asyncio.create_task(hold(process, wish, order, 60)) for wish in wishes]
    await room.until(24)
    for count, slots in enumerate(held, 1):
        slots.release()
        while len(order) < count:
            await asyncio.sleep(0.001)
    assert Counter(one[0] for one in order) == {"a": 2, "b": 2, "c": 2}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await room.until(0)


async def test_slots_of_an_ended_run_come_back(room: Room) -> None:
    one, two = await room.process(), await room.process()
    dead, alive = await room.run(one.owner), await room.run(two.owner)
    await one.limiter.acquire([ask(dead, "lost")], one.on_wait)
    waiting = asyncio.create_task(two.limiter.acquire([ask(alive, "next")], two.on_wait))
    await room.until(2)
    await asyncio.sleep(0.25)
    assert not waiting.done()
    await room.finish(dead)
    async with asyncio.timeout(1):
        (await waiting).release()
    await room.until(0)


async def test_the_sweep_finds_what_nobody_asks_about(room: Room) -> None:
    process = await room.process()
    run, gone = await room.run(process.owner), await room.run(process.owner)
    await process.limiter.acquire([ask(run, "a", 2)], process.on_wait)
    await process.limiter.acquire([ask(gone, "b", 2)], process.on_wait)
    store = process.limiter._store
    assert await store.sweep() == 0
    await room.finish(run)
    await room.admin.execute("DELETE FROM runs WHERE id = $1", gone)
    assert await store.sweep() == 1  # a run without a row may be about to be written
    await room.admin.execute("UPDATE slots SET asked_at = asked_at - interval '1 min'")
    assert await store.sweep() == 1
    await room.admin.execute("UPDATE limit_scopes SET refilled_at = now() - interval '2 h'")
    await store.sweep()
    assert await room.admin.fetchval("SELECT count(*) FROM limit_scopes") == 0


async def test_a_crashed_owner_keeps_its_slots_for_the_one_that_adopts(room: Room) -> None:
    crashed, adopter = await room.process(), await room.process()
    run, other = await room.run(crashed.owner), await room.run(adopter.owner)
    old = await crashed.limiter.acquire([ask(run, "step")], crashed.on_wait)
    await room.fence(crashed.owner)
    rival = asyncio.create_task(adopter.limiter.acquire([ask(other, "rival")], adopter.on_wait))
    await asyncio.sleep(0.25)
    assert not rival.done()
    again = await adopter.limiter.acquire([ask(run, "step")], adopter.on_wait)
    assert adopter.waits == [("concurrency_limit", "the node x has a limit of 1 at once")]
    # The zombie wakes up: neither its release nor its asking again takes the slot from the new owner.
    old.release()
    zombie = asyncio.create_task(crashed.limiter.acquire([ask(run, "step")], crashed.on_wait))
    await crashed.limiter.release_run(run)
    await asyncio.sleep(0.25)
    assert not zombie.done()
    assert not rival.done()
    zombie.cancel()
    again.release()
    (await rival).release()
    await room.until(0)


async def test_an_adopter_gives_back_what_it_does_not_go_on_with(room: Room) -> None:
    crashed, adopter = await room.process(), await room.process()
    run = await room.run(crashed.owner)
    await crashed.limiter.acquire([ask(run, "run", 5, scope="workflow:w")], crashed.on_wait)
    await crashed.limiter.acquire([ask(run, "step")], crashed.on_wait)
    await adopter.limiter.release_run(run)
    assert len(await room.slots()) == 2  # the other engine lives
    await room.fence(crashed.owner)
    await adopter.limiter.release_run(run, keep=["run"])
    assert await room.slots() == [("run", True)]


async def test_a_dead_owner_s_place_in_the_queue_is_passed_over(room: Room) -> None:
    holder, dead, other = [await room.process() for _ in range(3)]
    run = await room.run(holder.owner)
    held = await holder.limiter.acquire([ask(run, "held")], holder.on_wait)
    lost = asyncio.create_task(dead.limiter.acquire([ask(run, "lost", priority=9)], dead.on_wait))
    await room.until(2)
    await room.fence(dead.owner)
    waiting = asyncio.create_task(other.limiter.acquire([ask(run, "waiting", priority=0)], other.on_wait))
    await room.until(3)
    held.release()
    async with asyncio.timeout(1):
        (await waiting).release()
    assert not lost.done()
    lost.cancel()


async def test_cancelled_while_waiting(room: Room) -> None:
    process = await room.process()
    run = await room.run(process.owner)
    held = await process.limiter.acquire([ask(run, "held")], process.on_wait)
    for pause in (0.0, 0.0005, 0.002, 0.05):
        task = asyncio.create_task(
            process.limiter.acquire([ask(run, "a", 9, scope="a"), ask(run, "z")], process.on_wait)
        )
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await room.until(1)
    held.release()
    await room.until(0)
    assert process.limiter.waiting == 0


async def test_the_database_is_away_for_a_moment(room: Room, postgres: EmbeddedPostgres) -> None:
    process = await room.process()
    run = await room.run(process.owner)
    held = await process.limiter.acquire([ask(run, "held")], process.on_wait)
    waiting = asyncio.create_task(process.limiter.acquire([ask(run, "waiting")], process.on_wait))
    await room.until(2)
    name = await room.admin.fetchval("SELECT current_database()")
    outside = await asyncpg.connect(postgres.dsn())
    await outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await outside.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> $2",
        name,
        room.admin.get_server_pid(),
    )
    held.release()
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await outside.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await outside.close()
    async with asyncio.timeout(3):
        (await waiting).release()
    await room.until(0)


async def test_what_the_database_refuses_harms_nobody_else(room: Room) -> None:
    process = await room.process()
    run = await room.run(process.owner)
    bad, good = await asyncio.gather(
        process.limiter.acquire([ask(run, "nul \x00", scope="bad")], process.on_wait),
        process.limiter.acquire([ask(run, "fine")], process.on_wait),
        return_exceptions=True,
    )
    assert isinstance(bad, Unavailable)
    assert not isinstance(good, BaseException)
    good.release()
    await room.until(0)


async def test_a_hand_over_is_quick(room: Room) -> None:
    process = await room.process()
    run = await room.run(process.owner)
    order: list[str] = []
    started = room.clock.monotonic()
    await asyncio.gather(*(hold(process, ask(run, f"h{n}"), order) for n in range(100)))
    assert room.clock.monotonic() - started < 2.0  # a hundred polls would take ten seconds
    assert len(order) == 100


async def test_without_a_life_nothing_is_asked(room: Room) -> None:
    process = await room.process()
    process.limiter.owner = None
    with pytest.raises(Unavailable):
        await process.limiter.acquire([ask(await room.run(process.owner), "x")], process.on_wait)
