"""Events: facts from outside that start runs and wake those that wait for them."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from core.ids import Workspace
from core.json import JsonValue


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as it was received. Never changed.

    Attributes:
        id: UUIDv7, so ids sort by the time of receipt (within the differences of the servers' clocks).
        dedupe_key: says that another event of this name with the same key is the same event; None for never.
        created_by: the name of the key that sent it.
    """

    id: uuid.UUID
    workspace: Workspace
    name: str
    payload: JsonValue
    received_at: datetime
    dedupe_key: str | None = None
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an event that was to be stored.

    Attributes:
        event: the event; of a duplicate, the first one.
        duplicate: nothing was stored.
        has_triggers: triggers of its name are there, to be matched with it.
    """

    event: Event
    duplicate: bool
    has_triggers: bool
