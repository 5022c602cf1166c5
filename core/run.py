"""The states of runs and steps, and the journal's events. A run's state is a pure fold over its events."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.ids import RunId, StepId, WorkflowId, Workspace
from core.json import JsonValue


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self in _FINAL_RUN


class StepStatus(StrEnum):
    """Where a step stands."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    OUTCOME_UNKNOWN = "outcome_unknown"

    @property
    def final(self) -> bool:
        """Whether the step will not change any more by itself."""
        return self in _FINAL_STEP


_FINAL_RUN = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
_FINAL_STEP = frozenset({StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED})


class EventType(StrEnum):
    """What can happen to a run.

    An attempt of a node with effects has a `started` event that is durable before the node is called. An attempt of
    a pure node may have only its end event.
    """

    RUN_CREATED = "run_created"
    RUN_ADMITTED = "run_admitted"
    """It found room under the workflow's limit."""
    RUN_RECOVERED = "run_recovered"
    RUN_PAUSED = "run_paused"
    RUN_RESUMED = "run_resumed"
    BREAKPOINTS_SET = "breakpoints_set"
    BREAKPOINT_PASSED = "breakpoint_passed"
    SIGNAL_RECEIVED = "signal_received"
    GRAPH_PATCHED = "graph_patched"
    VARIABLE_SET = "variable_set"
    FOREACH_EXPANDED = "foreach_expanded"
    STEP_WAITING = "step_waiting"
    """A step could start, but for a reason that is named (a limit, a breakpoint, an open breaker)."""
    PLAN_PROPOSED = "plan_proposed"
    """A step has planned further steps, and a person has to approve of them."""
    CHILD_STARTED = "child_started"
    CHILD_ENDED = "child_ended"
    ATTEMPT_STARTED = "attempt_started"
    ATTEMPT_SUCCEEDED = "attempt_succeeded"
    ATTEMPT_FAILED = "attempt_failed"
    ATTEMPT_CANCELLED = "attempt_cancelled"
    STEP_SKIPPED = "step_skipped"
    STEP_COMPLETED = "step_completed"
    STEP_FAILED = "step_failed"
    STEP_RESOLVED = "step_resolved"
    STEP_REDRIVEN = "step_redriven"
    """Steps are reset, to run again. A run that had ended goes on with it."""
    CANCEL_REQUESTED = "cancel_requested"
    FALLBACK_STARTED = "fallback_started"
    """The run has failed, and another workflow stands in for it."""
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"


ATTEMPT_ENDS = frozenset({EventType.ATTEMPT_SUCCEEDED, EventType.ATTEMPT_FAILED, EventType.ATTEMPT_CANCELLED})
"""Each of these becomes one trace row."""

NO_ITEM = -1
"""The `item` of a step that is not a `foreach`."""


class WaitReason(StrEnum):
    """Why a step does not go on at this moment."""

    DEPENDENCY = "dependency"
    RETRY = "retry"
    DELAY = "delay"
    EVENT = "event"
    FORM = "form"
    APPROVAL = "approval"
    BREAKPOINT = "breakpoint"
    PAUSED = "paused"
    CONCURRENCY_LIMIT = "concurrency_limit"
    RATE_LIMIT = "rate_limit"
    CACHE = "cache"
    BREAKER = "breaker"
    NO_WORKER = "no_worker"
    CHILDREN = "children"
    OUTCOME_UNKNOWN = "outcome_unknown"


@dataclass(slots=True, frozen=True)
class Parent:
    """The step that a run was started by. `step_id` is empty when it is the fallback of the whole run."""

    run_id: RunId
    step_id: str
    item: int = NO_ITEM
    index: int = 0
    depth: int = 1


@dataclass(slots=True, frozen=True)
class RunOptions:
    """What a run may be given besides its input.

    Attributes:
        breakpoints: steps to stop before.
        priority: 0 to 9, 9 first; None: the workflow's.
        session: whose variables of scope `session` it sees.
        restarted_from: the run that it repeats.
        restored: results of steps that are taken over, `{status, output, error}` by step.
        parent: the step of another run that waits for it.
        spec: the document of a body that has no workflow of its own.
    """

    breakpoints: tuple[str, ...] = ()
    priority: int | None = None
    session: str = ""
    restarted_from: RunId | None = None
    restored: dict[str, dict[str, Any]] = field(default_factory=dict)
    parent: Parent | None = None
    spec: dict[str, Any] | None = None


DEFAULT_PRIORITY = 5
"""Of a run that nobody gives one."""

PLAIN = RunOptions()
"""What most runs are given: nothing."""


@dataclass(slots=True, frozen=True)
class RunEvent:
    """One line of the journal.

    Attributes:
        seq: position in the run, from 1 without gaps.
        data: small facts (error, retry time, what the trace row needs).
        payload: the value that the event carries (input, output); may be large.
        encoded: `payload` as JSON text, when the writer of the event had it already.
    """

    run_id: RunId
    seq: int
    type: EventType
    at: datetime
    step_id: StepId | None = None
    item: int = NO_ITEM
    attempt: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    payload: JsonValue = None
    encoded: bytes | None = None


@dataclass(slots=True, frozen=True)
class RunRecord:
    """What is fixed when a run is created.

    Attributes:
        pins: the exact node version that each step uses, by step id.
        context: what the caller says about the situation; goes into traces.
        unit_key: what sticky decisions are made for (default: the run's id).
        parent_id: the run that has started this one.
    """

    id: RunId
    workspace: Workspace
    workflow_id: WorkflowId
    workflow: str
    workflow_version: int
    created_at: datetime
    input: JsonValue
    context: dict[str, str]
    pins: dict[str, str]
    unit_key: str = ""
    created_by: str = ""
    parent_id: RunId | None = None
