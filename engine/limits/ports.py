"""What limits need from the database, as they want to see it."""

from collections.abc import Collection, Sequence
from typing import Protocol

from core.ids import OwnerId, RunId
from core.limit import NodeLimit, ScopeAnswer, ScopeTurn


class SlotStore(Protocol):
    """Who holds a slot of which scope, and who waits for one. Shared by all processes."""

    async def turn(self, owners: Collection[OwnerId], turns: Sequence[ScopeTurn]) -> list[ScopeAnswer]:
        """Do it all in one transaction: for each scope give back, then ask, then grant what is free to the best.

        Best is the highest priority, then the workflow that holds least, then the one whose turn it is, then who asked
        first. Waiters of owners that are dead are left out. When a scope is full, slots of runs that have ended count
        no more. A scope that is not known gives no answer.

        Args:
            owners: whose grants the answers shall tell.

        Raises:
            Unavailable: the database does not answer; whether it was done is not known, and it may be done again.
        """
        ...

    async def release_run(self, run_id: RunId, owner: OwnerId, keep: Collection[str]) -> list[str]:
        """Give back everything of a run but what the holders in `keep` have and what another living owner has; returns
        the scopes. Raises Unavailable."""
        ...

    async def sweep(self) -> int:
        """Remove the slots of runs that have ended, and forget scopes out of use; returns how many slots.
        Raises Unavailable."""
        ...


class NodeLimitStore(Protocol):
    """The limits of nodes that were set on the server."""

    async def all(self) -> list[NodeLimit]:
        """All of all workspaces. Raises Unavailable."""
        ...
