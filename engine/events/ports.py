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

    async def since(
        self, workspace: Workspace, name: str, after: datetime, last: uuid.UUID | None = None
    ) -> list[Event]:
        """Events of a name that were received after a time, by id; at most 1,000, of ids above `last`.

        Raises:
            Unavailable: not now.
        """
        ...
