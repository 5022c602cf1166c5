"""Brings every event to this process: those received here at once, those of other processes within a moment.

Ids are UUIDv7, so new events have high ids; but an id may become visible late (its transaction was slow) or out of
order (clocks differ). So each look goes back a little, now and then further, and remembers what it has seen.
"""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from core.clock import Clock, uuid7
from core.errors import Unavailable
from core.event import Event
from engine.events.ports import EventLog

_log = structlog.get_logger(__name__)

POLL_SECONDS = 0.2
_NEAR_SECONDS = 2.0
FAR_SECONDS = 15.0
"""How late an event may become visible and still be delivered by the feed."""
_FAR_EVERY = 10
_MOST_SEEN = 200_000
_BATCH = 500

OnEvent = Callable[[Event], Awaitable[int]]
"""Told of each event once; gives back how many runs it woke."""


class EventFeed:
    """See the module."""

    def __init__(self, log: EventLog, on_event: OnEvent, clock: Clock) -> None:
        self._log = log
        self._on_event = on_event
        self._clock = clock
        self._seen: OrderedDict[uuid.UUID, None] = OrderedDict()
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looks = 0

    def start(self) -> None:
        """Follow the table until `aclose`."""
        self._task = asyncio.create_task(self._follow())

    async def aclose(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    def wake(self) -> None:
        """Look now instead of at the next beat."""
        self._awake.set()

    async def deliver(self, event: Event) -> int:
        """Tell at once of an event that is stored; gives how many runs it woke. One that was told of wakes none."""
        if event.id in self._seen:
            return 0
        self._note(event.id)
        try:
            return await self._on_event(event)
        except Exception:  # noqa: BLE001 -- task boundary: one event's fault must not cost the others
            _log.exception("an event could not be delivered", event_id=str(event.id))
            return 0

    async def look(self) -> int:
        """Deliver what is new; returns how many events that were. Raises Unavailable."""
        back = FAR_SECONDS if self._looks % _FAR_EVERY == 0 else _NEAR_SECONDS
        self._looks += 1
        floor = self._floor(back)
        fresh = [one for one in await self._log.ids_after(floor) if one not in self._seen]
        for start in range(0, len(fresh), _BATCH):
            for event in await self._log.get_many(fresh[start : start + _BATCH]):
                await self.deliver(event)
        self._forget()
        return len(fresh)

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
            except Unavailable as error:
                _log.warning("events wait", detail=error.detail)
            except Exception:  # noqa: BLE001 -- task boundary: the feed outlives its own faults
                _log.exception("the feed of events stumbled")
            self._awake.clear()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._awake.wait()
            except TimeoutError:
                pass

    def _floor(self, seconds: float) -> uuid.UUID:
        at = self._clock.now() - timedelta(seconds=seconds)
        return uuid7(int(at.timestamp() * 1000), 0)

    def _note(self, event_id: uuid.UUID) -> None:
        self._seen[event_id] = None

    def _forget(self) -> None:
        """Drop what no look can meet again. Twice the reach, because clocks of other processes may be ahead."""
        floor = self._floor(2 * FAR_SECONDS)
        while self._seen:
            oldest = next(iter(self._seen))
            if oldest > floor and len(self._seen) <= _MOST_SEEN:
                return
            del self._seen[oldest]
