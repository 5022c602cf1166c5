"""What the engine needs from outside, as it wants to see it."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from core.ids import OwnerId, RunId, WorkflowId, Workspace
from core.journal import RunWrite, StoredRun
from core.json import JsonValue
from core.variable import Variable, VariableScope

if TYPE_CHECKING:
    from engine.program import Program


class Journal(Protocol):
    """The append-only truth about runs.

    An owner is one life of an engine. It holds a lease that it renews; whoever finds a lease expired fences its owner,
    and from then on no append of that owner changes a single row, however late it arrives.
    """

    async def register(self, owner: OwnerId, lease_seconds: float, exclusive: bool) -> None:
        """Enter a new owner. `exclusive` fences all others at once: the caller knows that none of them lives."""
        ...

    async def renew(self, owner: OwnerId, lease_seconds: float) -> bool:
        """Extend the lease. False when the owner was fenced."""
        ...

    async def release(self, owner: OwnerId) -> None:
        """Give up the lease, so that others take over without waiting for it to expire."""
        ...

    async def append(self, owner: OwnerId, writes: Sequence[RunWrite]) -> frozenset[RunId]:
        """Write all of it in one transaction. Writing the same events again changes nothing.

        Returns:
            runs that were to be created, and that somebody else has created under the same id: nothing of them was
            written, and they are not this owner's.

        Raises:
            Fenced: the owner is not the owner any more; nothing was written.
            Unavailable: the database does not answer; whether it was written is not known, so write it again.
        """
        ...

    async def adopt(self, owner: OwnerId, limit: int) -> list[RunId]:
        """Fence owners whose lease has expired, and take over up to `limit` unfinished runs of fenced owners."""
        ...

    async def load(self, run_id: RunId) -> StoredRun | None:
        """A run with its whole history; None when there is none."""
        ...

    async def reopen(self, owner: OwnerId, run_id: RunId) -> bool:
        """Take over a run that has ended, so that it can go on. False when it has not ended, or somebody was faster."""
        ...

    async def ended(self, run_ids: Sequence[RunId]) -> dict[RunId, bool]:
        """Which of these runs exist, and whether they have ended."""
        ...


class Commands(Protocol):
    """Where processes leave what they want of runs that others drive."""

    async def send(self, run_id: RunId, command_id: uuid.UUID, command: Mapping[str, JsonValue]) -> None:
        """Leave a command for the run's owner, whoever that is. The same id again changes nothing."""
        ...

    async def waiting(self, owner: OwnerId, limit: int) -> list[tuple[RunId, Any]]:
        """Commands for runs of this owner that were not performed yet, oldest first."""
        ...

    async def settle(self, command_id: uuid.UUID, refusal: Mapping[str, JsonValue] | None) -> None:
        """Note that a command was performed, or why not."""
        ...

    async def answer(self, command_id: uuid.UUID) -> tuple[bool, Any]:
        """Whether a command is settled, and the refusal if there is one."""
        ...


class SharedVariables(Protocol):
    """Variables that outlive a run."""

    async def visible(self, workspace: Workspace, workflow: str, session: str, now: datetime) -> dict[str, Variable]:
        """What a run of this workflow and session sees, the narrowest scope first."""
        ...

    async def set(
        self,
        workspace: Workspace,
        scope: VariableScope,
        owner: str,
        name: str,
        value: JsonValue,
        expires_at: datetime | None,
        updated_by: str,
    ) -> None:
        """Set a variable. `owner`: the workflow's or the session's name; empty for all."""
        ...


@dataclass(frozen=True, slots=True)
class FoundWorkflow:
    """A workflow that a step may start."""

    id: WorkflowId
    name: str
    version: int
    program: "Program"


class Workflows(Protocol):
    """Finds what steps start."""

    async def find(self, workspace: Workspace, reference: str) -> FoundWorkflow:
        """A workflow by name or id, at its current version or at `name@3`. Raises NotFound."""
        ...

    async def changed(
        self,
        workspace: Workspace,
        document: dict[str, Any],
        operations: Sequence[JsonValue],
        started: frozenset[str],
        pins: Mapping[str, str],
    ) -> tuple[dict[str, Any], "Program", frozenset[str]]:
        """Change the graph of a run: the new document, its program, and the steps that were touched. Raises Invalid."""
        ...

    async def body(self, workspace: Workspace, document: dict[str, Any]) -> "Program":
        """The program of steps that stand inside a step. Raises Invalid."""
        ...


class Secrets(Protocol):
    """Where secret values come from."""

    async def get_many(self, workspace: Workspace, names: Sequence[str]) -> dict[str, str]:
        """The values of those names that exist."""
        ...
