"""The cache on a real database and a real object store: what is shared, and what becomes of a call that fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import Unavailable
from core.ids import RunId, Workspace
from core.json import encode
from engine.cache import step_cache
from engine.cache.key import call_key
from engine.cache.ports import CacheAsk
from engine.cache.step_cache import Flight, Hit, StepCache
from engine.expression.secret import SecretName, SecretText
from infra.objects import Objects
from infra.postgres.step_cache import StepResults
from tests.conftest import ManualClock
from tests.engine.limits.room import Room, open_room

HERE = Workspace("here")


class CacheRoom:
    """Caches of several processes; time stands still."""

    def __init__(self, room: Room, stack: AsyncExitStack, store: StepResults) -> None:
        self.room = room
        self.stack = stack
        self.store = store
        self.clock = ManualClock()
        self.waits: list[tuple[str, str]] = []

    async def cache(self) -> StepCache:
        cache = StepCache(self.store, self.clock)
        cache.owner = await self.room.owner()
        cache.start()
        self.stack.push_async_callback(cache.aclose)
        return cache

    async def ask(self, cache: StepCache, holder: str = "h", run_id: RunId | None = None, ttl: float = 60) -> CacheAsk:
        assert cache.owner is not None
        run_id = run_id or await self.room.run(cache.owner)
        return CacheAsk(HERE, "key", "http.request", "1.0.0", "flow", "s", run_id, holder, ttl)

    def on_wait(self, reason: str, detail: str) -> None:
        self.waits.append((reason, detail))

    async def flights(self) -> int:
        return int(await self.room.admin.fetchval("SELECT count(*) FROM step_flights"))


@pytest.fixture
async def room(database: str, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[CacheRoom]:
    async with open_room(database) as inner, AsyncExitStack() as stack:
        yield CacheRoom(inner, stack, StepResults(engine, Objects.open(tmp_path / "objects")))


async def flight(room: CacheRoom, cache: StepCache, ask: CacheAsk) -> Flight:
    found = await cache.board(ask, room.on_wait)
    assert isinstance(found, Flight)
    return found


async def hit(room: CacheRoom, cache: StepCache, ask: CacheAsk) -> Hit:
    found = await cache.board(ask, room.on_wait)
    assert isinstance(found, Hit)
    return found


async def test_miss_hit_and_expiry(room: CacheRoom) -> None:
    one, two = await room.cache(), await room.cache()
    ask = await room.ask(one)
    await (await flight(room, one, ask)).land(encode({"a": [1, None]}))
    room.clock.advance(59)
    found = await hit(room, two, await room.ask(two))
    assert (found.output, found.encoded, found.run_id, found.age_seconds) == (
        {"a": [1, None]},
        b'{"a":[1,null]}',
        ask.run_id,
        59.0,
    )
    assert (one.hits, one.misses, two.hits, two.misses) == (0, 1, 1, 0)
    # Whoever wants younger ones makes it anew, and whoever comes after the end, too.
    young = await flight(room, two, await room.ask(two, ttl=30))
    await young.abandon()
    room.clock.advance(1)
    late = await flight(room, one, ask)
    await late.land(b"null")
    assert (await hit(room, two, await room.ask(two))).output is None
    assert room.waits == []
    assert await room.flights() == 0


async def test_equal_calls_at_once_make_one_flight(room: CacheRoom) -> None:
    caches = [await room.cache(), await room.cache()]
    asks = [await room.ask(caches[n % 2], f"h{n}") for n in range(50)]
    flights = 0

    async def call(n: int) -> object:
        nonlocal flights
        found = await caches[n % 2].board(asks[n], room.on_wait)
        if isinstance(found, Hit):
            return found.output
        flights += 1
        await asyncio.sleep(0.1)
        await found.land(b'"made"')
        return "made"

    async with asyncio.timeout(5):
        assert await asyncio.gather(*(call(n) for n in range(50))) == ["made"] * 50
    assert flights == 1
    assert len(room.waits) == 49
    assert {reason for reason, _ in room.waits} == {"cache"}


async def test_when_the_call_fails_exactly_one_other_makes_it(room: CacheRoom) -> None:
    caches = [await room.cache(), await room.cache()]
    asks = [await room.ask(caches[n % 2], f"h{n}") for n in range(20)]
    made: list[int] = []

    async def call(n: int) -> object:
        found = await caches[n % 2].board(asks[n], room.on_wait)
        if isinstance(found, Hit):
            return found.output
        made.append(n)
        await asyncio.sleep(0.02)
        if len(made) < 3:
            await found.abandon()
            return "failed"
        await found.land(b'"made"')
        await found.abandon()
        return "made"

    async with asyncio.timeout(5):
        results = await asyncio.gather(*(call(n) for n in range(20)))
    assert len(made) == len(set(made)) == 3
    assert sorted(str(one) for one in results) == ["failed"] * 2 + ["made"] * 18


@pytest.mark.parametrize("same_process", [True, False])
async def test_the_run_of_the_call_ended_without_a_word(
    room: CacheRoom, same_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_cache, "_DOUBT_SECONDS", 0.1)
    one = await room.cache()
    two = one if same_process else await room.cache()
    first = await room.ask(one, "first")
    await flight(room, one, first)
    waiting = [asyncio.create_task(two.board(await room.ask(two, f"w{n}"), room.on_wait)) for n in range(3)]
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in waiting)
    await room.room.finish(first.run_id)
    room.clock.advance(1)
    async with asyncio.timeout(3):
        done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        (taken,) = [task.result() for task in done]
        assert isinstance(taken, Flight)
        await taken.land(b"1")
        assert [getattr(await task, "output", None) for task in rest] == [1, 1]


async def test_the_adopter_has_the_flight_back_and_the_zombie_lands_nothing(room: CacheRoom) -> None:
    crashed, adopter = await room.cache(), await room.cache()
    ask = await room.ask(crashed, "step")
    old = await flight(room, crashed, ask)
    assert crashed.owner is not None
    await room.room.fence(crashed.owner)
    other = asyncio.create_task(adopter.board(await room.ask(adopter, "other"), room.on_wait))
    await asyncio.sleep(0.2)
    assert not other.done()  # dead for a moment only: the run may be adopted
    other.cancel()
    again = await flight(room, adopter, ask)
    await old.land(b'"zombie"')
    zombie = asyncio.create_task(crashed.board(ask, room.on_wait))
    await asyncio.sleep(0.2)
    assert not zombie.done()
    zombie.cancel()
    await again.land(b'"adopter"')
    assert (await hit(room, adopter, await room.ask(adopter))).output == "adopter"


async def test_the_same_engine_in_a_new_life_has_the_flight_back(room: CacheRoom) -> None:
    cache = await room.cache()
    ask = await room.ask(cache, "step")
    old = await flight(room, cache, ask)
    cache.owner = await room.room.owner()
    new = await flight(room, cache, ask)
    await old.abandon()
    follower = asyncio.create_task(cache.board(await room.ask(cache, "other"), room.on_wait))
    await asyncio.sleep(0.05)
    await new.land(b"2")
    found = await follower
    assert isinstance(found, Hit)
    assert found.output == 2


async def test_long_dead_owners_lose_their_flights(room: CacheRoom) -> None:
    one, two = await room.cache(), await room.cache()
    await flight(room, one, await room.ask(one, "lost"))
    await room.room.admin.execute("UPDATE owners SET expires_at = now() - interval '16 s' WHERE id = $1", one.owner)
    waiting = asyncio.create_task(two.board(await room.ask(two, "next"), room.on_wait))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await room.room.admin.execute("UPDATE step_flights SET started_at = now() - interval '16 s'")
    async with asyncio.timeout(2):
        assert isinstance(await waiting, Flight)


async def test_invalidation_reaches_results_and_calls_under_way(room: CacheRoom) -> None:
    one, two = await room.cache(), await room.cache()
    ask = await room.ask(one)
    await (await flight(room, one, ask)).land(b"1")
    assert await room.store.clear(HERE, "other.node", None, None) == 0
    assert await room.store.clear(HERE, None, "other", None) == 0
    assert await room.store.clear(Workspace("there"), None, None, None) == 0
    assert await room.store.clear(HERE, "http.request", "flow", "s") == 1
    under_way = await flight(room, one, ask)
    waiting = [asyncio.create_task(two.board(await room.ask(two, "w2"), room.on_wait))]
    waiting += [asyncio.create_task(one.board(await room.ask(one, "w1"), room.on_wait))]
    await asyncio.sleep(0.05)
    assert await room.store.clear(HERE, None, None, None) == 0
    await under_way.land(b'"out of date"')
    async with asyncio.timeout(2):
        done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            found = task.result()
            assert isinstance(found, Flight)
            await found.land(b'"new"')
        for task in rest:
            other = await task
            assert isinstance(other, Hit)
            assert other.output == "new"


async def test_large_results_by_reference_and_too_large_ones_not_at_all(
    room: CacheRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = await room.cache()
    ask = await room.ask(cache)
    value = {"text": "x" * 40_000}
    await (await flight(room, cache, ask)).land(encode(value))
    row = await room.room.admin.fetchrow("SELECT output, output_ref, size FROM step_cache")
    assert row is not None
    assert (row["output"], row["size"]) == (None, 40_011)
    assert (await hit(room, cache, ask)).output == value
    for path in (tmp_path / "objects").rglob("*"):
        if path.is_file():
            path.unlink()
    lost = await flight(room, cache, ask)  # the object is gone: the call is made again
    monkeypatch.setattr(step_cache, "LARGEST_BYTES", 100)
    follower = asyncio.create_task(cache.board(await room.ask(cache, "other"), room.on_wait))
    await asyncio.sleep(0.05)
    await lost.land(encode("y" * 200))
    found = await follower
    assert isinstance(found, Hit)  # equal calls at once still share one
    assert found.output == "y" * 200
    assert await room.flights() == 0


async def test_no_secret_is_in_the_tables(room: CacheRoom) -> None:
    cache = await room.cache()
    params = {"url": "https://x", "headers": {"authorization": SecretText(("Bearer ", SecretName("TOKEN")))}}
    ask = replace(await room.ask(cache), key=call_key("http.request", "1.0.0", params))
    under_way = await flight(room, cache, ask)
    dump = await room.room.admin.fetchval("SELECT string_agg(f::text, ' ') FROM step_flights f")
    await under_way.land(b"1")
    dump += await room.room.admin.fetchval("SELECT string_agg(c::text, ' ') FROM step_cache c")
    assert "http.request" in dump
    for word in ("TOKEN", "Bearer", "https://x"):
        assert word not in dump


async def test_statistics_and_the_sweep(room: CacheRoom) -> None:
    cache = await room.cache()
    for n in range(3):
        ask = replace(await room.ask(cache, ttl=10 + n), key=f"k{n}", node=f"node.{n // 2}")
        await (await flight(room, cache, ask)).land(encode("x" * 8))
    now = room.clock.now()
    shares = await room.store.shares(HERE, now)
    assert [(one.node, one.entries, one.bytes, one.oldest) for one in shares] == [
        ("node.0", 2, 20, now),
        ("node.1", 1, 10, now),
    ]
    room.clock.advance(11)
    assert await room.store.expire(room.clock.now()) == 2
    assert [one.entries for one in await room.store.shares(HERE, room.clock.now())] == [1]


async def test_a_caller_that_is_cancelled_leaves_nothing_behind(room: CacheRoom) -> None:
    one, two = await room.cache(), await room.cache()
    first = await flight(room, one, await room.ask(one, "first"))
    tasks = [asyncio.create_task(cache.board(await room.ask(cache, "w"), room.on_wait)) for cache in (one, two)]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await first.land(b"1")
    for cache in (one, two):
        assert (await hit(room, cache, await room.ask(cache))).output == 1
        assert cache._gates == {}


async def test_without_a_life_nothing_is_asked(room: CacheRoom) -> None:
    cache = await room.cache()
    ask = await room.ask(cache)
    cache.owner = None
    with pytest.raises(Unavailable):
        await cache.board(ask, room.on_wait)
