"""What the engine needs from outside, as it wants to see it."""

from collections.abc import Sequence
from typing import Protocol

from core.ids import OwnerId, RunId, Workspace
from core.journal import RunWrite, StoredRun


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

    async def append(self, owner: OwnerId, writes: Sequence[RunWrite]) -> None:
        """Write all of it in one transaction. Writing the same events again changes nothing.

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


class Secrets(Protocol):
    """Where secret values come from."""

    async def get_many(self, workspace: Workspace, names: Sequence[str]) -> dict[str, str]:
        """The values of those names that exist."""
        ...
