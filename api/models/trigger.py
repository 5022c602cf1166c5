"""Triggers and what they fired."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.models.shape import Page, Shape, left_out
from core.firing import FiringStatus
from core.run import RunStatus

Kind = Literal["cron", "webhook", "event", "manual"]


class Trigger(Shape):
    """What starts runs of a workflow."""

    id: uuid.UUID
    workflow_id: uuid.UUID
    workflow: str = Field(description="The workflow's name.", examples=["greet"])
    name: str = Field(description="Unique in the workflow.", examples=["nightly"])
    type: Kind
    config: dict[str, Any] = Field(
        description="What the trigger says, as in a spec.", examples=[{"type": "cron", "schedule": "0 3 * * *"}]
    )
    from_spec: bool = Field(description="It stands in the workflow's spec; else it was made beside it.")
    paused: bool
    next_at: datetime | None = Field(description="When a cron trigger fires next; null while it is paused.")
    url: str = Field(
        default_factory=left_out, description="The path of a webhook on this server.", examples=["/webhooks/charge"]
    )
    created_at: datetime
    updated_at: datetime


class TriggerPage(Page[Trigger]):
    """A page of triggers."""


class Firing(Shape):
    """One time that a trigger fired."""

    id: uuid.UUID
    at: datetime
    scheduled_for: datetime | None = Field(description="The time that a cron trigger fired for.")
    status: FiringStatus = Field(description="`reserved`: its run is about to start.")
    run_id: uuid.UUID | None = Field(description="Its run; of a duplicate, the first one's. Null when there is none.")
    unit_key: str = Field(description="What sticky decisions of the run are made for; may be empty.")
    created_by: str = Field(description="The trigger, or the key that fired it by hand.", examples=["trigger:nightly"])
    reason: str | None = Field(description="Why there is no run of its own.")


class FiringPage(Page[Firing]):
    """A page of firings."""


class Preview(Shape):
    """When a cron trigger will fire."""

    times: list[datetime] = Field(description="The next times, in UTC.")
    timezone: str = Field(examples=["Europe/Berlin"])


class WebhookAccepted(Shape):
    """A run that goes on."""

    run_id: uuid.UUID
    status: RunStatus = Field(description="Where the run stood when this was answered.")
