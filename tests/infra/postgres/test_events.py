import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from core.event import Event
from core.firing import FiringStatus
from core.ids import Workspace
from engine.events.feed import EventFeed
from engine.expression.evaluator import Evaluator
from tests.conftest import ManualClock
from tests.infra.postgres.trigger_room import HERE, Room

ON_PAID = {"type": "event", "name": "on_paid", "event": "order.paid"}


@pytest.fixture(scope="module")
async def evaluator() -> AsyncIterator[Evaluator]:
    evaluator = Evaluator()
    yield evaluator
    await evaluator.aclose()


@pytest.fixture
def room(engine: AsyncEngine, manual_clock: ManualClock, evaluator: Evaluator) -> Room:
    return Room(engine, manual_clock, evaluator)


async def send(room: Room, payload: Any = None, key: str | None = None, name: str = "order.paid") -> Any:
    return await room.service.event(HERE, name, payload, key, "tests")


async def test_an_event_starts_what_it_triggers(room: Room) -> None:
    await room.workflow(
        "shop",
        {**ON_PAID, "match": "event.amount > 10", "correlation": "event.customer"},
        {**ON_PAID, "name": "small", "match": "event.amount <= 10", "input": {"n": "{{ event.amount }}"}},
        {**ON_PAID, "name": "other", "event": "order.lost"},
        {**ON_PAID, "name": "off", "enabled": False},
    )
    receipt = await send(room, {"amount": 11, "customer": 7})
    assert (receipt.duplicate, receipt.woken, len(receipt.started)) == (False, 1, 1)
    await send(room, {"amount": 3})
    await send(room, {"nothing": 1})
    await send(room, "text")
    runs = list(room.runs.runs.values())
    assert [(one["input"], one["unit_key"]) for one in runs] == [({"amount": 11, "customer": 7}, "7"), ({"n": 3}, "")]
    assert len(room.woken) == 4


async def test_an_input_that_cannot_be_made_is_in_the_history(room: Room) -> None:
    await room.workflow("shop", {**ON_PAID, "input": {"n": "{{ event.amount }}"}}, {**ON_PAID, "name": "fine"})
    assert len((await send(room, {})).started) == 1
    (failed,) = await room.history("on_paid")
    assert failed.status is FiringStatus.FAILED
    assert "amount" in (failed.reason or "")


async def test_the_same_key_within_a_day_is_the_same_event(room: Room, manual_clock: ManualClock) -> None:
    await room.workflow("shop", ON_PAID)
    first = await send(room, {"n": 1}, "k")
    manual_clock.advance(86_000)
    again = await send(room, {"n": 2}, "k")
    assert (again.duplicate, again.event.id, again.started, again.woken) == (True, first.event.id, (), 0)
    assert not (await send(room, {"n": 3}, "other")).duplicate
    assert not (await send(room, {"n": 4}, "k", name="order.lost")).duplicate
    manual_clock.advance(1_000)
    assert not (await send(room, {"n": 5}, "k")).duplicate
    assert room.runs.inputs == [{"n": 1}, {"n": 3}, {"n": 5}]


async def test_two_with_one_key_at_once(room: Room) -> None:
    await room.workflow("shop", ON_PAID)
    found = await asyncio.gather(*(send(room, {}, "k") for _ in range(8)))
    assert [one.duplicate for one in found].count(False) == 1
    assert len({one.event.id for one in found}) == 1
    assert len(room.runs.runs) == 1


async def test_the_same_request_again_is_the_same_event(room: Room) -> None:
    await room.workflow("shop", ON_PAID)
    reserved = room.clock.new_id()
    for _ in range(2):
        await room.service.event(HERE, "order.paid", {}, "k", "tests", reserved)
    assert list(room.runs.calls.values()) == [1]
    assert len((await room.events.list(HERE)).items) == 1


async def test_an_event_whose_receiver_died_is_matched_by_any_process(room: Room, manual_clock: ManualClock) -> None:
    await room.workflow("shop", ON_PAID, {**ON_PAID, "name": "second"})
    event = Event(manual_clock.new_id(), HERE, "order.paid", {"n": 1}, manual_clock.now())
    await room.events.add(event, manual_clock.now())
    others = [Room(room.engine, manual_clock, room.evaluator, room.runs) for _ in range(4)]
    assert await others[0].service._dispatch.sweep() == 0
    manual_clock.advance(3)
    await asyncio.gather(*(one.service._dispatch.sweep() for one in others))
    assert sorted(room.runs.calls.values()) == [1, 1]
    assert await others[0].service._dispatch.sweep() == 0


async def test_a_receiver_that_died_between_recording_and_starting(room: Room, manual_clock: ManualClock) -> None:
    await room.workflow("shop", ON_PAID)
    room.runs.dies = True
    with pytest.raises(asyncio.CancelledError):
        await send(room, {"n": 1})
    room.runs.dies = False
    manual_clock.advance(6)
    assert await room.service._dispatch.sweep() == 0
    assert await room.service._starter.sweep() == 1
    assert room.runs.inputs == [{"n": 1}]


async def test_a_trigger_is_not_for_events_from_before_it(room: Room, manual_clock: ManualClock) -> None:
    await room.workflow("first", ON_PAID)
    event = Event(manual_clock.new_id(), HERE, "order.paid", {}, manual_clock.now())
    await room.events.add(event, manual_clock.now())
    manual_clock.advance(3)
    second = await room.workflow("second", {**ON_PAID, "name": "late"})
    await room.service._dispatch.sweep()
    assert [one["workflow_id"] == second for one in room.runs.runs.values()] == [False]


async def test_an_event_without_triggers_needs_no_second_look(room: Room, manual_clock: ManualClock) -> None:
    await send(room, {})
    manual_clock.advance(10)
    assert await room.events.undispatched(manual_clock.now(), 10) == []


async def test_what_came_while_nobody_watched(room: Room, manual_clock: ManualClock) -> None:
    for number in range(4):
        await send(room, number, name="a" if number % 2 else "b")
        manual_clock.advance(10)
    after = manual_clock.now() - timedelta(seconds=35)
    assert [one.payload for one in await room.events.since(HERE, "b", after)] == [2]
    assert [one.payload for one in await room.events.since(HERE, "a", after)] == [1, 3]
    assert await room.events.since(Workspace("there"), "a", after) == []


async def test_every_process_is_told_of_every_event(room: Room, manual_clock: ManualClock) -> None:
    told: list[list[Any]] = [[], []]

    def feed(number: int) -> EventFeed:
        async def on_event(event: Event) -> int:
            told[number].append(event.payload)
            return 0

        return EventFeed(room.events, on_event, manual_clock)

    feeds = [feed(0), feed(1)]
    for number in range(600):
        event = Event(manual_clock.new_id(), HERE, "a", number, manual_clock.now())
        await room.events.add(event, manual_clock.now())
        if number % 2:
            await feeds[0].deliver(event)
    for one in feeds:
        await one.look()
        await one.look()
    assert sorted(told[0]) == told[1] == list(range(600))


async def test_lists_and_retention(room: Room, manual_clock: ManualClock) -> None:
    for number in range(5):
        await send(room, {"n": number, "nul": "\x00"}, name="a" if number else "b")
        manual_clock.advance(1)
    first = await room.events.list(HERE, limit=3)
    rest = await room.events.list(HERE, limit=3, cursor=first.next_cursor)
    assert [one.payload["n"] for one in (*first.items, *rest.items)] == [4, 3, 2, 1, 0]
    assert len((await room.events.list(HERE, name="a")).items) == 4
    assert await room.events.expire(manual_clock.now() - timedelta(seconds=2)) == 3
