"""What routing needs from outside."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Protocol

from core.json import JsonValue
from core.route import Opening, StoredRoute


class RouteStore(Protocol):
    """Where routes are kept."""

    async def load(self) -> Sequence[StoredRoute]:
        """The routes in force, of all workspaces. Raises Unavailable."""
        ...


class BreakerStore(Protocol):
    """Where open breakers are shared by all processes. A breaker that is not there is closed.

    Raises (every call):
        Unavailable: the store does not answer.
    """

    async def load(self) -> Sequence[Opening]:
        """All open breakers."""
        ...

    async def open(
        self, workspace: str, node: str, version: str, cooldown: float, calls: int, failures: int, *, again: bool
    ) -> None:
        """Open one for `cooldown` seconds from now. One that is open stays as it is unless `again` says that a probe
        has failed."""
        ...

    async def close(self, workspace: str, node: str, version: str) -> None:
        """Close one."""
        ...

    async def claim_probe(
        self, workspace: str, node: str, version: str, claim: uuid.UUID, lease: float, *, early: bool
    ) -> bool:
        """Get the right to the one call that an open breaker lets through. Repeated with the same claim it prolongs
        the lease (seconds).

        Args:
            early: do not wait for the cooldown.

        Returns:
            False when somebody else has it, the cooldown is not over, or the breaker is not open.
        """
        ...

    async def release_probe(self, workspace: str, node: str, version: str, claim: uuid.UUID) -> None:
        """Give the right back: the call said nothing about the arm."""
        ...


class RuleEvaluator(Protocol):
    """Evaluates CEL within bounds."""

    async def evaluate(self, source: str, variables: Mapping[str, JsonValue]) -> JsonValue:
        """The value of the expression. Raises StepError when it has none."""
        ...
