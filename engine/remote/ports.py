"""What both sides of remote attempts need from outside."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, Protocol
from uuid import UUID

Row = Mapping[str, Any]
"""Columns of the table of tasks by name; JSON columns as bytes or text."""


class TaskStore(Protocol):
    """The table of tasks as the owners of runs see it. All raise Unavailable."""

    async def add(self, waiter: UUID, rows: Sequence[Mapping[str, object]]) -> Set[UUID]:
        """Enter tasks; those that exist get a new waiter and stay as they are. Returns the ids of the new ones."""
        ...

    async def finished(self, waiter: UUID, seen: Sequence[UUID]) -> Sequence[Row]:
        """Tasks of this waiter that have ended, without those already seen: `id status outcome output gone`."""
        ...

    async def look(self, ids: Sequence[UUID]) -> tuple[Mapping[UUID, str], Set[str]]:
        """The status of each task that exists, and the groups that live workers serve."""
        ...

    async def claim_waiting(self, waiter: UUID, ids: Sequence[UUID]) -> None:
        """Become the waiter of these tasks again."""
        ...

    async def withdraw(self, ids: Sequence[UUID]) -> None:
        """Cancel tasks that have not ended."""
        ...

    async def withdraw_ended(self, limit: int) -> int:
        """Cancel tasks of runs that have ended, which their owner could not do any more. Returns how many."""
        ...

    async def open_of(self, run_id: UUID) -> Sequence[tuple[UUID, str, int, int]]:
        """Tasks of a run that have not ended, as (id, step, item, attempt)."""
        ...

    async def forget(self, ids: Sequence[UUID]) -> None:
        """Delete tasks that have ended."""
        ...

    async def unpublished(self, ids: Sequence[UUID]) -> None:
        """These tasks' messages did not go out: they are due for another in a moment."""
        ...

    async def lose_expired(self) -> int:
        """Tasks whose worker's lease has expired become lost. Returns how many."""
        ...

    async def due(self, limit: int) -> Sequence[tuple[str, UUID]]:
        """Queued tasks whose message seems to be lost, as (group, id). Each is due again later, ever less often."""
        ...

    async def clear(self, limit: int) -> int:
        """Delete tasks of finished runs. Returns how many."""
        ...


class Publisher(Protocol):
    """The broker, as the owner sees it."""

    async def publish(self, messages: Sequence[tuple[str, UUID]]) -> None:
        """Send one message for each (group, task). Raises Unavailable; some of them may have gone out then."""
        ...


class WorkerStore(Protocol):
    """The table of tasks as one worker sees it. All raise Unavailable."""

    async def claim(self, worker: UUID, ids: Sequence[UUID], lease_seconds: float) -> Sequence[Row]:
        """Take those tasks that nobody has. What this worker has already is given again."""
        ...

    async def beat(
        self, worker: UUID, about: Mapping[str, object], held: Sequence[UUID], lease_seconds: float, renew: bool
    ) -> Set[UUID]:
        """Say that the worker lives. Returns which of `held` are still its own; `renew` extends their lease."""
        ...

    async def neglected(self, groups: Sequence[str], limit: int) -> Sequence[UUID]:
        """Queued tasks for which several messages have gone out in vain, oldest first."""
        ...

    async def finish(self, worker: UUID, ends: Sequence[tuple[UUID, bytes, bytes | None]]) -> None:
        """Store (id, outcome, output) of tasks that are still this worker's; of others nothing changes."""
        ...

    async def give_back(
        self, worker: UUID, again: Sequence[UUID], lost: Sequence[UUID], refused: Sequence[UUID]
    ) -> None:
        """Leave tasks to others: to be done again, lost half way, or never claimed."""
        ...

    async def leave(self, worker: UUID) -> None:
        """The worker is gone."""
        ...
