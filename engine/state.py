"""What a run looks like after the events so far. Changed by `engine.fold` alone."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.ids import RunId
from core.json import JsonValue
from core.manifest import Effect
from core.run import NO_ITEM, PLAIN, RunOptions, RunRecord, RunStatus, StepStatus


@dataclass(slots=True)
class ChildRun:
    """A run that a step has started, and waits for.

    Attributes:
        tries: how often a run was started for this index.
        version: of the workflow; 0 for a body without a workflow of its own.
    """

    id: RunId
    status: RunStatus = RunStatus.RUNNING
    workflow: str = ""
    version: int = 0
    tries: int = 1
    output: JsonValue = None
    error: dict[str, JsonValue] | None = None
    cost: float = 0.0


@dataclass(slots=True)
class TaskState:
    """One unit of work: a step, or one element of a step with `foreach`.

    Attributes:
        attempts: how many have started.
        lost: how many of them ended with their worker; they do not count against the retry policy.
        spent: how many belong to the past (before a redrive, on an arm that was given up), and do not count either.
        attempt_at: when the attempt in flight started; None when none is.
        effect: what running the attempt in flight twice would mean.
        delay: seconds that the next attempt waits after the last one failed.
        due_at: when a timer wakes the task: the next attempt, the end of a delay or of a wait.
        waiting: why it waits, `{reason, detail?, until?}`.
        route: the arm that serves it, once one is drawn.
        failed_arms: versions that were tried in vain.
        remote: a worker process performs the attempt in flight.
        wait: what a `flow.wait` waits for, while it does.
        children: the runs that it has started, by index.
        given: the parameters of a composition, when they could not be found again later.
    """

    status: StepStatus = StepStatus.QUEUED
    attempts: int = 0
    lost: int = 0
    spent: int = 0
    attempt_at: datetime | None = None
    due_at: datetime | None = None
    delay: float | None = None
    effect: Effect = Effect.UNSAFE
    output: JsonValue = None
    error: dict[str, JsonValue] | None = None
    waiting: dict[str, Any] | None = None
    route: dict[str, Any] | None = None
    failed_arms: tuple[str, ...] = ()
    remote: bool = False
    cache_hit: bool = False
    wait: dict[str, Any] | None = None
    children: dict[int, ChildRun] | None = None
    given: dict[str, Any] | None = None


@dataclass(slots=True)
class StepState:
    """A step. Without `foreach` it has the one task `NO_ITEM`; with it one for each element (`size` of them).

    Attributes:
        past: attempts of earlier drives, by element.
        drives: how often it was told to run again; an attempt of another drive is another effect.
        values: the elements, when they could not be found again later.
    """

    status: StepStatus = StepStatus.QUEUED
    size: int | None = None
    tasks: dict[int, TaskState] = field(default_factory=dict)
    finished: int = 0
    output: JsonValue = None
    error: dict[str, JsonValue] | None = None
    reason: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    waiting: dict[str, Any] | None = None
    past: dict[int, int] | None = None
    drives: int = 0
    values: list[JsonValue] | None = None

    @property
    def attempts(self) -> int:
        """Attempts over all elements."""
        earlier = sum(count for item, count in self.past.items() if item not in self.tasks) if self.past else 0
        return earlier + sum(task.attempts for task in self.tasks.values())

    @property
    def task(self) -> TaskState:
        """The task of a step without `foreach`."""
        return self.tasks[NO_ITEM]


@dataclass(slots=True)
class Signal:
    """What was told to the run, and not taken by a step yet."""

    id: str
    name: str
    payload: JsonValue


@dataclass(slots=True)
class RunState:
    """A run: what is fixed (`record`) and what the events made of it.

    Attributes:
        fallbacks: for each step with `on_error: {use: ...}` the step whose output stands in for its own.
        view: what expressions see as `steps`.
        open: how many steps are not final yet.
        active: attempts in flight that are really running, not sleeping.
        asleep: tasks that wait for a timer, a person or room.
        spec: the document, where it is not that of the workflow's version (patched, or a body of its own).
        queued: waits for room under the workflow's limit.
        stepping: stop before whatever starts next.
        released: steps whose breakpoint was passed.
        overrides: parameters that were edited, by step.
        fallback: the run that stands in for this one, which has failed with `failing`.
        revived: it had ended, and was made to go on; whoever had started it does not wait for it any more.
        run_view: what expressions see as `run`, once it was asked for.
        commands: ids of what was asked and done, so that nothing is done twice.
    """

    record: RunRecord
    steps: dict[str, StepState]
    fallbacks: dict[str, str]
    options: RunOptions = PLAIN
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
    cost_usd: float = 0.0
    spec: dict[str, Any] | None = None
    queued: bool = False
    queued_for: dict[str, Any] | None = None
    paused_at: datetime | None = None
    pause_reason: str = ""
    paused_seconds: float = 0.0
    breakpoints: frozenset[str] = frozenset()
    stepping: bool = False
    released: frozenset[str] = frozenset()
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    signals: list[Signal] = field(default_factory=list)
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)
    fallback: ChildRun | None = None
    failing: dict[str, JsonValue] | None = None
    revived: bool = False
    run_view: dict[str, JsonValue] | None = None
    commands: set[str] = field(default_factory=set)

    @property
    def paused(self) -> bool:
        """Whether nothing is started until somebody resumes the run."""
        return self.paused_at is not None

    @property
    def holding(self) -> bool:
        """Whether no step is to be started now, for whatever reason."""
        return self.queued or self.paused_at is not None or self.failing is not None


def fresh(record: RunRecord, step_ids: list[str], fallbacks: dict[str, str], options: RunOptions = PLAIN) -> RunState:
    """The state before the first event."""
    state = RunState(record, {step: StepState() for step in step_ids}, fallbacks, options, spec=options.spec)
    state.open = len(step_ids)
    state.view = {step: {"output": None, "error": None, "status": "queued"} for step in step_ids}
    return state
