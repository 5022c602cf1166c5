"""What triggers need from outside."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from core.event import Accepted, Event
from core.firing import Claim, Firing, FiringStatus, StoredTrigger, TriggerDraft
from core.ids import RunId, WorkflowId, Workspace
from core.json import JsonValue


class Runs(Protocol):
    """Where runs are started."""

    async def start_run(
        self,
        workspace: Workspace,
        workflow_id: WorkflowId,
        run_id: RunId,
        input: JsonValue,
        context: dict[str, str],
        unit_key: str,
        created_by: str,
    ) -> None:
        """Start a run of the workflow's current version; returns once it is accepted for good.

        Nothing happens when there is a run with this id already, in whatever process.

        Raises:
            Invalid: the input does not fit the workflow.
            NotFound: the workflow is gone.
            Unavailable: not now; it is tried again.
        """
        ...


class Secrets(Protocol):
    """Where secret values come from."""

    async def get_many(self, workspace: Workspace, names: Sequence[str]) -> dict[str, str]:
        """The values of those names that exist."""
        ...


class TriggerStore(Protocol):
    """The table of triggers. All methods raise Unavailable when the database is away."""

    async def replace(
        self, workspace: Workspace, workflow_id: WorkflowId, drafts: Sequence[TriggerDraft], now: datetime
    ) -> None:
        """Make these the triggers that stand in the workflow's spec. Pauses stay; so does the next time of an
        unchanged schedule. Raises Conflict when a webhook's path or a name is taken."""
        ...

    async def check(self, workspace: Workspace, workflow: str, drafts: Sequence[TriggerDraft]) -> None:
        """Raise Conflict when `replace` would, for the workflow of that name."""
        ...

    async def remove_all(self, workflow_id: WorkflowId, now: datetime) -> None:
        """Take all triggers of a workflow out of use, those beside its spec too."""
        ...

    async def create(
        self, trigger_id: uuid.UUID, workspace: Workspace, workflow_id: WorkflowId, draft: TriggerDraft, now: datetime
    ) -> StoredTrigger:
        """Make a trigger beside the spec. Raises Conflict when its name or path is taken."""
        ...

    async def get(self, workspace: Workspace, trigger_id: uuid.UUID) -> StoredTrigger:
        """A trigger. Raises NotFound."""
        ...

    async def delete(self, workspace: Workspace, trigger_id: uuid.UUID, now: datetime) -> None:
        """Take a trigger out of use; its history stays. Raises NotFound."""
        ...

    async def set_paused(
        self, workspace: Workspace, trigger_id: uuid.UUID, paused: bool, next_at: datetime | None, now: datetime
    ) -> StoredTrigger:
        """Pause or resume. Raises NotFound."""
        ...

    async def webhooks(self, path: str) -> list[StoredTrigger]:
        """The webhook triggers of a path, of all workspaces."""
        ...

    async def for_event(self, workspace: Workspace, event: str) -> list[StoredTrigger]:
        """The event triggers of a name that are not paused."""
        ...

    async def due(self, now: datetime, limit: int) -> list[StoredTrigger]:
        """Cron triggers whose time has come, the longest due first."""
        ...

    async def claim(self, claims: Sequence[Claim]) -> list[Firing]:
        """Record what is due, in one transaction; gives the firings of those claims where no other was first."""
        ...


class FiringStore(Protocol):
    """The table of firings. All methods raise Unavailable when the database is away."""

    async def reserve(self, firings: Sequence[Firing], event_id: uuid.UUID | None = None) -> list[Firing]:
        """Record firings; gives those whose key is new to their trigger. `event_id` is dispatched with that."""
        ...

    async def by_key(self, trigger_id: uuid.UUID, key: str) -> Firing | None:
        """The firing with a key."""
        ...

    async def settle(self, firing_id: uuid.UUID, status: FiringStatus, reason: str | None = None) -> None:
        """Say what became of a reserved firing. One that came to nothing gives its key free."""
        ...

    async def take_over(self, now: datetime, before: datetime, limit: int) -> list[Firing]:
        """Reserved firings that nobody has touched since `before`: they are touched now, and the caller's."""
        ...


class EventStore(Protocol):
    """The table of events. All methods raise Unavailable when the database is away."""

    async def add(self, event: Event, since: datetime) -> Accepted:
        """Store an event, unless its dedupe key was seen since that time. The same id again changes nothing."""
        ...

    async def undispatched(self, before: datetime, limit: int) -> list[Event]:
        """Events that were received before a time and that no process has matched with the triggers."""
        ...
