"""What the cache needs from the database, as it wants to see it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.ids import OwnerId, RunId, Workspace


@dataclass(frozen=True, slots=True)
class CacheAsk:
    """A call whose result may be there already.

    Attributes:
        key: see `engine.cache.key`.
        workflow: its name; with `step_id` and `run_id` it tells who stored the result.
        ttl: seconds for which a result is used; for one that is there already, too.
        holder: names who calls, such as `<run>:<step>`; who asks again under the same name has the same flight.
    """

    workspace: Workspace
    key: str
    node: str
    version: str
    workflow: str
    step_id: str
    run_id: RunId
    holder: str
    ttl: float


class Stored(Protocol):
    """A result that is there."""

    @property
    def encoded(self) -> bytes:
        """Its JSON text."""
        ...

    @property
    def run_id(self) -> RunId:
        """The run that made it."""
        ...

    @property
    def created_at(self) -> datetime:
        """When it was stored."""
        ...


class CacheStore(Protocol):
    """Results and flights. A flight is a call under way whose result will be stored: one at a time for each key.

    All methods raise Unavailable when the database or the object store does not answer.
    """

    async def look(self, ask: CacheAsk, now: datetime) -> Stored | None:
        """The result, if there is one that is young enough."""
        ...

    async def board(self, ask: CacheAsk, owner: OwnerId, now: datetime) -> tuple[bool, Stored | None]:
        """Begin a flight, unless there is a result by now; that is the second value.

        True when the flight is the asker's: there was none, it was the asker's before, or the one who had it cannot
        end it any more.
        """
        ...

    async def land(self, ask: CacheAsk, owner: OwnerId, encoded: bytes, now: datetime) -> bool:
        """End a flight and store its result, both or none. False when the flight was taken over or called off, so that
        the result must not be stored."""
        ...

    async def abandon(self, ask: CacheAsk, owner: OwnerId) -> None:
        """End a flight without a result. Does nothing when it is somebody else's by now."""
        ...

    async def expire(self, now: datetime) -> int:
        """Remove results whose time is over, and flights that nobody will end; returns how many results."""
        ...
