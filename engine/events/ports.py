"""What the delivery of events needs from outside."""

import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from core.event import Event
from core.ids import Workspace


class EventLog(Protocol):
    """The table of events, which all processes write and follow."""

    async def ids_after(self, floor: uuid.UUID) -> list[uuid.UUID]:
        """Ids above `floor` in order, of all workspaces. Raises Unavailable."""
        ...

    async def get_many(self, ids: Collection[uuid.UUID]) -> list[Event]:
        """The events with these ids in their order. Raises Unavailable."""
        ...

    async def since(self, workspace: Workspace, name: str, after: datetime) -> list[Event]:
        """Events of a name that were received after a time, oldest first; at most 1,000. Raises Unavailable."""
        ...
