"""Events as they were received."""

import uuid
from datetime import datetime
from typing import Any

from pydantic import Field

from api.models.shape import Page, Shape


class EventReceipt(Shape):
    """What became of an event."""

    id: uuid.UUID = Field(description="The event; of a duplicate, the first one.")
    name: str = Field(examples=["order.paid"])
    duplicate: bool = Field(description="Its `dedupe_key` was seen within 24 hours: nothing was done.")
    started: list[uuid.UUID] = Field(description="Runs that triggers started.")
    woken: int = Field(description="Runs that waited for it in this process; those of others wake within a moment.")


class ReceivedEvent(Shape):
    """An event."""

    id: uuid.UUID
    name: str = Field(examples=["order.paid"])
    payload: Any = Field(examples=[{"order_id": 17}])
    dedupe_key: str | None
    received_at: datetime
    created_by: str = Field(description="The name of the key that sent it.", examples=["shop"])


class ReceivedEventPage(Page[ReceivedEvent]):
    """A page of events."""
