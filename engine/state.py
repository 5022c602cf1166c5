"""What a run looks like after the events so far. Changed by `engine.fold` alone."""

from dataclasses import dataclass, field
from datetime import datetime

from core.json import JsonValue
from core.manifest import Effect
from core.run import NO_ITEM, RunRecord, RunStatus, StepStatus


@dataclass(slots=True)
class TaskState:
    """One unit of work: a step, or one element of a step with `foreach`.

    Attributes:
        attempts: how many have started.
        lost: how many of them ended with their worker; they do not count against the retry policy.
        attempt_at: when the attempt in flight started; None when none is.
        effect: what running the attempt in flight twice would mean.
        due_at: when a timer wakes the task: the next attempt, or the end of a delay.
    """

    status: StepStatus = StepStatus.QUEUED
    attempts: int = 0
    lost: int = 0
    attempt_at: datetime | None = None
    due_at: datetime | None = None
    effect: Effect = Effect.UNSAFE
    output: JsonValue = None
    error: dict[str, JsonValue] | None = None


@dataclass(slots=True)
class StepState:
    """A step. Without `foreach` it has the one task `NO_ITEM`; with it one for each element (`size` of them)."""

    status: StepStatus = StepStatus.QUEUED
    size: int | None = None
    tasks: dict[int, TaskState] = field(default_factory=dict)
    finished: int = 0
    output: JsonValue = None
    error: dict[str, JsonValue] | None = None
    reason: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def attempts(self) -> int:
        """Attempts over all elements."""
        return sum(task.attempts for task in self.tasks.values())

    @property
    def task(self) -> TaskState:
        """The task of a step without `foreach`."""
        return self.tasks[NO_ITEM]


@dataclass(slots=True)
class RunState:
    """A run: what is fixed (`record`) and what the events made of it.

    Attributes:
        fallbacks: for each step with `on_error: {use: ...}` the step whose output stands in for its own.
        view: what expressions see as `steps`.
        open: how many steps are not final yet.
        active: attempts in flight that are really running, not sleeping.
        asleep: tasks that wait for a timer or a person.
    """

    record: RunRecord
    steps: dict[str, StepState]
    fallbacks: dict[str, str]
    status: RunStatus = RunStatus.QUEUED
    seq: int = 0
    view: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    outputs: JsonValue = None
    error: dict[str, JsonValue] | None = None
    cancel_reason: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    open: int = 0
    active: int = 0
    asleep: int = 0
    recoveries: int = 0


def fresh(record: RunRecord, step_ids: list[str], fallbacks: dict[str, str]) -> RunState:
    """The state before the first event."""
    state = RunState(record, {step: StepState() for step in step_ids}, fallbacks)
    state.open = len(step_ids)
    state.view = {step: {"output": None, "error": None, "status": "queued"} for step in step_ids}
    return state
