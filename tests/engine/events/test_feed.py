import asyncio
import uuid
from collections.abc import Collection
from datetime import datetime, timedelta

from core.clock import uuid7
from core.errors import Unavailable
from core.event import Event
from core.ids import Workspace
from engine.events.feed import FAR_SECONDS, EventFeed
from tests.conftest import ManualClock


class Log:
    """Events in memory, seen as a table is: each from the moment on at which its transaction commits."""

    def __init__(self) -> None:
        self.events: dict[uuid.UUID, Event] = {}
        self.fetched = 0
        self.away = False

    async def ids_after(self, floor: uuid.UUID) -> list[uuid.UUID]:
        if self.away:
            raise Unavailable("the database is away")
        return sorted(one for one in self.events if one > floor)

    async def get_many(self, ids: Collection[uuid.UUID]) -> list[Event]:
        self.fetched += len(ids)
        return [self.events[one] for one in sorted(ids)]

    async def since(
        self, workspace: Workspace, name: str, after: datetime, last: uuid.UUID | None = None
    ) -> list[Event]:
        return [one for one in self.events.values() if one.received_at > after]


class Room:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.log = Log()
        self.told: list[int] = []
        self.feed = EventFeed(self.log, self.on_event, self.clock)

    async def on_event(self, event: Event) -> int:
        self.told.append(event.payload)
        if event.payload == "fault":
            raise RuntimeError("a fault of the engine")
        return 3

    def event(self, payload: object, seconds_ago: float = 0.0) -> Event:
        at = self.clock.now() - timedelta(seconds=seconds_ago)
        made = Event(uuid7(int(at.timestamp() * 1000), len(self.log.events)), Workspace("w"), "e", payload, at)
        self.log.events[made.id] = made
        return made


async def test_each_event_once_and_in_order() -> None:
    room = Room()
    for number in (2, 1, 0):
        room.event(2 - number, seconds_ago=number)
    assert await room.feed.look() == 3
    for _ in range(30):
        room.clock.advance(1)
        assert await room.feed.look() == 0
    assert room.told == [0, 1, 2]


async def test_what_was_received_here_is_told_at_once_and_not_again() -> None:
    room = Room()
    event = room.event("mine")
    assert await room.feed.deliver(event) == 3
    assert await room.feed.deliver(event) == 0
    assert await room.feed.look() == 0
    assert room.told == ["mine"]
    assert room.log.fetched == 0


async def test_an_event_that_commits_late_is_told() -> None:
    room = Room()
    await room.feed.look()
    room.event("late", seconds_ago=FAR_SECONDS - 3)
    for _ in range(10):
        room.clock.advance(0.2)
        await room.feed.look()
    assert room.told == ["late"]


async def test_one_fault_does_not_cost_the_others() -> None:
    room = Room()
    room.event("fault")
    room.event("fine")
    await room.feed.look()
    assert room.told == ["fault", "fine"]


async def test_it_goes_on_after_an_outage() -> None:
    room = Room()
    room.log.away = True
    room.feed.start()
    await asyncio.sleep(0.05)
    room.log.away = False
    room.event("then")
    room.feed.wake()
    for _ in range(100):
        if room.told:
            break
        await asyncio.sleep(0.02)
    await room.feed.aclose()
    assert room.told == ["then"]


async def test_what_was_seen_is_forgotten() -> None:
    room = Room()
    for _ in range(200):
        room.event("x")
        await room.feed.look()
        room.clock.advance(1)
    assert len(room.told) == 200
    assert len(room.feed._seen) < 40
