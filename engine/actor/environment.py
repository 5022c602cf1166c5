"""What all actors of an engine share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from core.clock import Clock
from core.command import Command
from core.ids import RunId
from core.run import RunOptions, RunRecord
from engine.attempt import Attempts
from engine.commit import GroupCommit
from engine.parts import Parts
from engine.program import Program
from engine.run_log import RunLog


class Launcher(Protocol):
    """Starts and ends the runs that steps ask for: the engine."""

    async def launch(self, record: RunRecord, program: Program, options: RunOptions) -> None:
        """Start a run, or find it under way already. Its end is told to the parent's actor."""
        ...

    async def existing(self, run_ids: Sequence[RunId]) -> frozenset[RunId]:
        """Which of these runs were ever started. Raises Unavailable."""
        ...

    async def under_way(self, run_ids: Sequence[RunId]) -> frozenset[RunId]:
        """Which of these runs were started, and have not ended. Raises Unavailable."""
        ...

    def withdraw(self, task_id: UUID) -> None:
        """A worker shall stop performing an attempt."""
        ...

    def forget(self, task_id: UUID, log: RunLog) -> None:
        """Once the journal has the end of an attempt, nobody needs the worker's result any more."""
        ...

    async def command(self, run_id: RunId, command: Command) -> None:
        """Ask something of a run, wherever it is driven. Raises as `Engine.command`."""
        ...


@dataclass(frozen=True, slots=True)
class ActorEnvironment:
    """See the module. `draining`: whether the engine is stopping, so that nothing is to be started."""

    clock: Clock
    attempts: Attempts
    commit: GroupCommit
    draining: Callable[[], bool]
    launcher: Launcher

    @property
    def parts(self) -> Parts:
        """What the engine works with."""
        return self.attempts.parts
