"""Slots and limits as the database keeps them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import NotFound
from core.ids import OwnerId, RunId, Workspace
from core.limit import Limit, NodeLimit, OwnedAsk, ScopeAnswer, ScopeTurn, SlotAsk
from core.spec import Rate
from infra.clock import SystemClock
from infra.postgres.generations import Generations
from infra.postgres.limits import Limits
from infra.postgres.slots import Slots
from tests.engine.limits.room import Room, open_room

HERE = Workspace("here")
RATE = Rate(calls=10, per=1.0, burst=2)


class Desk:
    """One owner's view of the slots."""

    def __init__(self, room: Room, engine: AsyncEngine, owner: OwnerId, run: RunId) -> None:
        self.room = room
        self.slots = Slots(engine)
        self.limits = Limits(engine, SystemClock())
        self.engine = engine
        self.owner = owner
        self.run = run

    async def ask(
        self, *holders: str, most: int | None = 1, rate: Rate | None = None, scope: str = "node:here:x"
    ) -> ScopeAnswer:
        asks = tuple(OwnedAsk(SlotAsk(scope, most, rate, one, self.run, "w"), self.owner) for one in holders)
        (answer,) = await self.slots.turn([self.owner], [ScopeTurn(scope, 2**62, asks=asks)])
        return answer

    async def look(self, seen: int, scope: str = "node:here:x", back: str | None = None) -> ScopeAnswer:
        gone = () if back is None else ((back, self.owner),)
        (answer,) = await self.slots.turn([self.owner], [ScopeTurn(scope, seen, gone)])
        return answer


@pytest.fixture
async def desk(database: str, engine: AsyncEngine) -> AsyncIterator[Desk]:
    async with open_room(database) as room:
        owner = await room.owner()
        yield Desk(room, engine, owner, await room.run(owner))


def holders(answer: ScopeAnswer) -> list[str]:
    return sorted(holder for holder, _ in answer.granted)


async def test_each_grant_is_told_once(desk: Desk) -> None:
    first = await desk.ask("a", "b", "c", most=2)
    assert (holders(first), first.full) == (["a", "b"], True)
    again = await desk.look(first.seen)
    assert (again.granted, again.seen) == ((), first.seen)
    third = await desk.look(first.seen, back="a")
    assert holders(third) == ["c"]
    assert holders(await desk.ask("b", most=2)) == ["b"]  # asking again for what one has
    assert await desk.slots.turn([desk.owner], [ScopeTurn("unknown", back=(("x", desk.owner),))]) == []


async def test_a_changed_limit_holds_from_the_next_turn_on(desk: Desk) -> None:
    first = await desk.ask("a", "b", "c", "d")
    assert holders(first) == ["a"]
    more = await desk.ask("e", most=3)
    assert (holders(more), more.limit) == ([], Limit(3))
    assert holders(await desk.look(first.seen)) == ["b", "c"]
    less = await desk.ask("f", most=1)
    assert less.full
    assert holders(await desk.look(less.seen, back="b")) == []


async def test_tokens_are_given_out_a_little_ahead(desk: Desk) -> None:
    answer = await desk.ask(*(f"c{n}" for n in range(9)), most=None, rate=RATE)
    delays = sorted(round(delay, 1) for _, delay in answer.granted)
    assert delays == [0.0, 0.0, 0.1, 0.2]
    assert not answer.limit.holds
    assert await desk.room.admin.fetchval("SELECT count(*) FROM slots") == 5  # whoever was told is not kept
    await asyncio.sleep(0.12)
    assert len((await desk.look(answer.seen)).granted) == 1


async def test_places_and_a_rate_in_one_scope(desk: Desk) -> None:
    answer = await desk.ask("a", "b", "c", most=3, rate=Rate(calls=1, per=60, burst=2))
    assert holders(answer) == ["a", "b"]
    assert not answer.full
    assert (await desk.look(answer.seen, back="a")).granted == ()


async def test_a_node_s_limit_is_the_server_s(desk: Desk) -> None:
    before = await Generations(desk.engine).current()
    await desk.limits.put(NodeLimit(HERE, "x", 1, None), "ann")
    assert (await desk.limits.get(HERE, "x")) == NodeLimit(HERE, "x", 1, None)
    first = await desk.ask("a", "b", "c", "d", most=50)  # an old number that some process still believes
    assert (holders(first), first.limit) == (["a"], Limit(1))
    await desk.limits.put(NodeLimit(HERE, "x", 2, RATE), "ann")
    assert await desk.limits.all() == [NodeLimit(HERE, "x", 2, RATE)]
    second = await desk.look(first.seen)
    assert (holders(second), second.limit) == (["b"], Limit(2, RATE))
    (use,) = await desk.limits.uses(HERE)
    assert (use.scope, use.in_use, use.waiting, use.limit, use.workflow) == (
        "node:here:x",
        2,
        2,
        Limit(2, RATE),
        "flow",
    )
    assert await desk.limits.uses(Workspace("there")) == []
    await desk.limits.delete(HERE, "x")
    assert holders(await desk.look(second.seen)) == ["c", "d"]
    with pytest.raises(NotFound):
        await desk.limits.get(HERE, "x")
    with pytest.raises(NotFound):
        await desk.limits.delete(HERE, "x")
    after = await Generations(desk.engine).current()
    assert after["limits"] - before.get("limits", 0) == 3
    await desk.room.admin.execute("DELETE FROM slots")
    await desk.room.admin.execute("UPDATE limit_scopes SET refilled_at = now() - interval '2 h'")
    await desk.limits.put(NodeLimit(HERE, "x", 1, None), "ann")
    await desk.slots.sweep()
    assert await desk.room.admin.fetchval("SELECT max FROM limit_scopes") == 1  # a limit that is set is not forgotten


async def test_turns_of_many_scopes_do_not_wait_in_a_circle(desk: Desk) -> None:
    scopes = [f"step:w:{name}" for name in ("Z", "a", "ä", "_", "B", "b")]

    async def turn(n: int) -> None:
        order = scopes[n % 6 :] + scopes[: n % 6]
        asks = {one: OwnedAsk(SlotAsk(one, 2, None, f"h{n}", desk.run, "w"), desk.owner) for one in order}
        await desk.slots.turn([desk.owner], [ScopeTurn(one, asks=(asks[one],)) for one in order])
        if n % 5 == 0:
            await desk.slots.release_run(desk.run, desk.owner, ())
        await desk.slots.turn([desk.owner], [ScopeTurn(one, back=((f"h{n}", desk.owner),)) for one in order])

    async with asyncio.timeout(10):
        await asyncio.gather(*(turn(n) for n in range(60)))
    await desk.slots.release_run(desk.run, desk.owner, ())
    assert await desk.room.slots() == []
