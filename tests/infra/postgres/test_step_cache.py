"""The table of cached results by itself; `tests/engine/cache` has it at work."""

import asyncio
from dataclasses import replace
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from core.ids import Workspace
from engine.cache.ports import CacheAsk
from infra.objects import Objects
from infra.postgres.step_cache import StepResults
from tests.conftest import ManualClock
from tests.engine.limits.room import open_room


async def test_of_many_who_board_at_once_one_flies(
    database: str, engine: AsyncEngine, tmp_path: Path, manual_clock: ManualClock
) -> None:
    store = StepResults(engine, Objects.open(tmp_path))
    now = manual_clock.now()
    async with open_room(database) as room:
        owner = await room.owner()
        run = await room.run(owner)
        ask = CacheAsk(Workspace("here"), "k", "n", "1.0.0", "w", "s", run, "h", 60)
        asks = [replace(ask, holder=f"h{n}") for n in range(12)]
        boarded = await asyncio.gather(*(store.board(one, owner, now) for one in asks))
        (mine,) = [one for one, (is_mine, _) in zip(asks, boarded, strict=True) if is_mine]
        assert [stored for _, stored in boarded] == [None] * 12
        other = next(one for one in asks if one is not mine)
        assert not await store.land(other, owner, b"0", now)
        await store.abandon(other, owner)
        assert await store.look(ask, now) is None
        # One lands while others board: each sees the result, or the flight, never neither.
        landed, *late = await asyncio.gather(
            store.land(mine, owner, b'{"b":1,"a":"\\u0000"}', now),
            *(store.board(replace(ask, holder=f"late{n}"), owner, now) for n in range(8)),
        )
        assert landed is True
        assert not any(is_mine for is_mine, _ in late)
        found = await store.look(ask, now)
        assert found is not None
        assert (found.encoded, found.run_id, found.created_at) == (b'{"b":1,"a":"\\u0000"}', run, now)
        assert await room.admin.fetchval("SELECT count(*) FROM step_flights") == 0
        assert await store.look(replace(ask, workspace=Workspace("there")), now) is None


async def test_flights_of_ended_runs_are_swept(
    database: str, engine: AsyncEngine, tmp_path: Path, manual_clock: ManualClock
) -> None:
    store = StepResults(engine, Objects.open(tmp_path))
    async with open_room(database) as room:
        owner = await room.owner()
        for key in ("ended", "alive"):
            run = await room.run(owner)
            ask = CacheAsk(Workspace("here"), key, "n", "1.0.0", "w", "s", run, "h", 60)
            await store.board(ask, owner, manual_clock.now())
            if key == "ended":
                await room.finish(run)
        await room.admin.execute("UPDATE step_flights SET started_at = now() - interval '2 min'")
        await store.expire(manual_clock.now())
        assert await room.admin.fetchval("SELECT string_agg(key, ' ') FROM step_flights") == "alive"
