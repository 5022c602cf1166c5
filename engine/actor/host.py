"""What those who help an actor (admission, children, waits, rescue, expansion) may ask of it."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from core.errors import StepError
from core.json import JsonValue
from engine.actor.change import Change
from engine.actor.environment import ActorEnvironment
from engine.attempt import Attempt
from engine.gate import Pass
from engine.inbox import Inbox
from engine.outcome import Outcome
from engine.program import Program
from engine.run_log import RunLog
from engine.state import RunState
from engine.timers import TaskKey

Running = tuple[Attempt, asyncio.Task[None] | None]
"""An attempt in flight, and the task that performs it, if one does."""


class RunHost(Protocol):
    """See the module.

    Attributes:
        again: tasks whose next attempt may start.
        running: attempts in flight.
    """

    env: ActorEnvironment
    program: Program
    log: RunLog
    state: RunState
    inbox: Inbox
    again: deque[TaskKey]
    running: dict[TaskKey, Running]

    def fail(self, error: StepError) -> None:
        """End the run with an error."""
        ...

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Record how an attempt ended and what follows from it."""
        ...

    def ended(self, attempt: Attempt, outcome: Outcome, told: dict[str, Any] | None = None) -> None:
        """An attempt in flight has ended, unless it was given up meanwhile. `told`: the command that ended it."""
        ...

    def succeed(self, attempt: Attempt, data: dict[str, Any], output: JsonValue, encoded: bytes | None = None) -> None:
        """Record a success."""
        ...

    def give_up(
        self, attempt: Attempt, trace: dict[str, Any], error: StepError, told: dict[str, Any] | None = None
    ) -> None:
        """Record a failure after which nothing is tried again. `told`: the command that wants it."""
        ...

    def passed(self, attempt: Attempt, got: Pass) -> None:
        """An attempt has passed its gate."""
        ...

    def cancel_attempts(self, reason: str, only_steps: Iterable[str] | None = None) -> None:
        """Cancel attempts in flight; each has its end recorded now, whether or not its node obeys."""
        ...

    def set_deadline(self) -> None:
        """Fail the run when it takes longer than its limit."""
        ...

    async def prepare_change(self, operations: Sequence[JsonValue]) -> Change:
        """Find what operations would make of the graph. Raises Invalid, Unavailable."""
        ...

    def still_fits(self, change: Change) -> bool:
        """Whether nothing has happened since that stands against a change."""
        ...

    def adopt(self, change: Change, data: dict[str, Any]) -> None:
        """Go on with a changed graph."""
        ...
