"""What a run's actor has before it: the run's program, state and log, what is under way, and those who help with it."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

from core.errors import Conflict, ErrorClass, StepError
from core.json import JsonValue
from core.run import EventType, StepStatus
from engine import plan
from engine.actor.change import Change
from engine.actor.environment import ActorEnvironment
from engine.actor.host import Running
from engine.elements import Elements
from engine.inbox import Inbox
from engine.plan import Move
from engine.program import Program
from engine.run_log import RunLog
from engine.state import RunState
from engine.timers import TaskKey, Timers


class RunDesk(ABC):
    """See the module. Only `log` changes the state."""

    def __init__(self, environment: ActorEnvironment, program: Program, state: RunState) -> None:
        self.env = environment
        self.program = program
        self.log = RunLog(environment.clock, environment.commit, state)
        self.state = state
        self.inbox = Inbox()
        self.ready: deque[tuple[str, Move]] = deque()
        self.again: deque[TaskKey] = deque()
        self.elements: dict[str, Elements] = {}
        self.running: dict[TaskKey, Running] = {}
        self.timers = Timers(lambda key: self.inbox.post(lambda: self.due(*key)))
        self.deadline: asyncio.TimerHandle | None = None
        self.disowned = False

    @abstractmethod
    def due(self, step_id: str, item: int) -> None:
        """The time of a task has come, or a day has passed."""

    @abstractmethod
    def leave_gates(self, steps: set[str]) -> None:
        """Attempts of these steps do not wait at their gates any more."""

    @abstractmethod
    def fail(self, error: StepError) -> None:
        """End the run with an error."""

    def set_timer(self, step_id: str, item: int) -> None:
        """Wake a task when it is due."""
        due_at = self.state.steps[step_id].tasks[item].due_at
        assert due_at is not None
        self.timers.set((step_id, item), (due_at - self.env.clock.now()).total_seconds())

    def set_timers(self) -> None:
        """Set the timer of every task that waits for a time."""
        for step_id, step in self.state.steps.items():
            for item, task in step.tasks.items():
                if task.due_at is not None and not task.status.final:
                    self.set_timer(step_id, item)

    def set_deadline(self) -> None:
        """Fail the run when it takes longer than its limit. The time that it stood still does not count."""
        limit = self.program.spec.policies.max_duration
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        if limit is None or self.state.holding or self.state.started_at is None:
            return
        spent = (self.env.clock.now() - self.state.started_at).total_seconds() - self.state.paused_seconds
        late = StepError(ErrorClass.TIMEOUT, f"the run took longer than its limit of {limit:g} s")
        self.deadline = asyncio.get_running_loop().call_later(
            max(0.0, limit - spent), lambda: self.inbox.post(lambda: self.fail(late))
        )

    async def prepare_change(self, operations: Sequence[JsonValue]) -> Change:
        """Find what operations would make of the graph. Raises Invalid, Conflict, Unavailable."""
        workflows, state = self.env.parts.workflows, self.state
        if workflows is None:
            raise Conflict("this engine cannot change graphs")
        document = state.spec if state.spec is not None else self.program.spec.to_json()
        started = frozenset(one for one, step in state.steps.items() if step.status is not StepStatus.QUEUED)
        changed, program, touched = await workflows.changed(
            state.record.workspace, document, operations, started, state.record.pins
        )
        return Change(state.spec, changed, program, touched)

    def still_fits(self, change: Change) -> bool:
        """Whether nothing has happened since that stands against a change."""
        steps = self.state.steps
        return self.state.spec is change.base and all(
            one not in steps or steps[one].status is StepStatus.QUEUED for one in change.touched
        )

    def adopt(self, change: Change, data: dict[str, Any]) -> None:
        """Go on with a changed graph."""
        payload = {"spec": change.document, "pins": change.program.pins}
        self.log.emit(EventType.GRAPH_PATCHED, data=data, payload=payload)
        self.program = change.program
        self.leave_gates(set(change.touched))  # they ask again, as they are now
        self.ready = deque(plan.all_moves(change.program.graph, self.state))
        self.set_deadline()

    def recreate_moves(self) -> None:
        """Find anew what may start, after steps were reset."""
        self.ready = deque(plan.all_moves(self.program.graph, self.state))
