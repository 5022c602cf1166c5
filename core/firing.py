"""Triggers as they are stored, and what they fired."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from core.ids import RunId, WorkflowId, Workspace
from core.json import JsonValue
from core.trigger import Trigger

DELIVERY = "delivery:"
"""Begins the key of a firing whose sender may send it again, and then means the same."""


class FiringStatus(StrEnum):
    """What became of a firing."""

    RESERVED = "reserved"
    """Recorded for good, and its run about to start under the id that is reserved for it."""
    STARTED = "started"
    SKIPPED = "skipped"
    """Times that passed while no server ran, and that the trigger does not make up for."""
    DUPLICATE = "duplicate"
    """The same delivery once more; `run_id` is the first one's run."""
    REFUSED = "refused"
    """What was given does not fit the workflow; no run was started."""
    FAILED = "failed"
    """No run could be started."""


@dataclass(frozen=True, slots=True)
class StoredTrigger:
    """A trigger of a workflow.

    Attributes:
        name: unique in the workflow, for good: a trigger that comes back under its name has its history again.
        from_spec: it stands in the workflow's spec, else it was made beside it.
        next_at: when a cron trigger fires next; None while it is paused, and for all others.
    """

    id: uuid.UUID
    workspace: Workspace
    workflow_id: WorkflowId
    workflow: str
    name: str
    config: Trigger
    from_spec: bool
    paused: bool
    next_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TriggerDraft:
    """A trigger that is to be stored. `next_at` is what a cron trigger begins with."""

    name: str
    config: Trigger
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """One time that a trigger fired.

    Attributes:
        key: unique in the trigger: the scheduled time, the event's id, the delivery's id. This is what makes a
            firing happen once.
        run_id: reserved before the run exists; None when there will be none.
        scheduled_for: the time that a cron trigger fired for.
        reason: why there is no run of its own, for a person.
    """

    id: uuid.UUID
    trigger_id: uuid.UUID
    workspace: Workspace
    workflow_id: WorkflowId
    key: str
    run_id: RunId | None
    status: FiringStatus
    at: datetime
    input: JsonValue = None
    context: dict[str, str] | None = None
    unit_key: str = ""
    created_by: str = ""
    scheduled_for: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be recorded when a cron trigger is due: all of it, or nothing when another process was first.

    Attributes:
        due: the `next_at` that was seen; the claim holds only while it is still that.
        next_at: what it becomes.
    """

    trigger_id: uuid.UUID
    due: datetime
    next_at: datetime | None
    firings: tuple[Firing, ...]
