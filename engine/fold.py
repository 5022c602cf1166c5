"""The fold over a run's events. The same events give the same state, always: this is what recovery stands on. Pure."""

from collections.abc import Callable
from datetime import datetime

from core.json import JsonValue
from core.manifest import Effect
from core.run import NO_ITEM, EventType, RunEvent, RunStatus, StepStatus
from engine.state import RunState, StepState, TaskState


def apply(state: RunState, event: RunEvent) -> None:
    """Advance `state` by one event, in place. An event that was applied already is ignored, so replay is idempotent.

    Raises:
        ValueError: the event does not follow the last one.
    """
    if event.seq <= state.seq:
        return
    if event.seq != state.seq + 1:
        raise ValueError(f"event {event.seq} of run {event.run_id} does not follow event {state.seq}")
    state.seq = event.seq
    _HANDLERS[event.type](state, event)
    if not state.status.final and state.started_at is not None:
        state.status = RunStatus.WAITING if state.asleep and not state.active else RunStatus.RUNNING


def _run_created(state: RunState, event: RunEvent) -> None:
    state.started_at = event.at
    state.status = RunStatus.RUNNING


def _run_recovered(state: RunState, event: RunEvent) -> None:
    state.recoveries += 1


def _foreach_expanded(state: RunState, event: RunEvent) -> None:
    step = _begin(state, event)
    step.size = int(event.data["size"])


def _attempt_started(state: RunState, event: RunEvent) -> None:
    step = _begin(state, event)
    task = _task(step, event)
    _wake(state, task)
    task.attempts = event.attempt
    task.attempt_at = event.at
    task.effect = Effect(event.data.get("effect", Effect.UNSAFE))
    due = event.data.get("due_at")
    if due is None:
        task.status = StepStatus.RUNNING
        state.active += 1
    else:
        task.status = StepStatus.WAITING
        task.due_at = datetime.fromisoformat(due)
        state.asleep += 1
    _follow_task(step, task)


def _attempt_succeeded(state: RunState, event: RunEvent) -> None:
    step, task = _end_attempt(state, event)
    task.status = StepStatus.COMPLETED
    task.output = event.payload
    task.error = None
    step.finished += 1
    if step.size is None:
        _finish(state, event, step, StepStatus.COMPLETED, event.payload, None)
    else:
        _settle_foreach(step)


def _attempt_failed(state: RunState, event: RunEvent) -> None:
    step, task = _end_attempt(state, event)
    task.error = event.data["error"]
    if event.data.get("lost"):
        task.lost += 1
    what_next = event.data["next"]
    if what_next == "retry":
        task.status = StepStatus.WAITING
        task.due_at = datetime.fromisoformat(event.data["retry_at"])
        state.asleep += 1
        _follow_task(step, task)
    elif what_next == "ask":
        task.status = StepStatus.OUTCOME_UNKNOWN
        state.asleep += 1
        _follow_task(step, task)
    else:
        task.status = StepStatus.FAILED
        step.finished += 1
        if step.size is None:
            _finish(state, event, step, StepStatus.FAILED, None, task.error)
        else:
            _settle_foreach(step)


def _attempt_cancelled(state: RunState, event: RunEvent) -> None:
    step, task = _end_attempt(state, event)
    task.status = StepStatus.CANCELLED
    step.finished += 1
    if step.size is None:
        _finish(state, event, step, StepStatus.CANCELLED, None, None)


def _step_skipped(state: RunState, event: RunEvent) -> None:
    step = state.steps[str(event.step_id)]
    step.reason = event.data.get("reason", "")
    _finish(state, event, step, StepStatus.SKIPPED, None, None)


def _step_completed(state: RunState, event: RunEvent) -> None:
    step = state.steps[str(event.step_id)]
    elements = (step.tasks[index] for index in range(step.size or 0))
    output: list[JsonValue] = [
        task.output if task.status is StepStatus.COMPLETED else {"error": task.error} for task in elements
    ]
    _finish(state, event, step, StepStatus.COMPLETED, output, None)


def _step_failed(state: RunState, event: RunEvent) -> None:
    for task in state.steps[str(event.step_id)].tasks.values():
        if not task.status.final:  # an element that waited for its next attempt, or for a person
            _wake(state, task)
            task.status, task.attempt_at = StepStatus.CANCELLED, None
    _finish(state, event, state.steps[str(event.step_id)], StepStatus.FAILED, None, event.data["error"])


def _step_resolved(state: RunState, event: RunEvent) -> None:
    step = state.steps[str(event.step_id)]
    task = _task(step, event)
    _wake(state, task)
    outcome = event.data["outcome"]
    if outcome == "retry":
        task.status = StepStatus.QUEUED
        _follow_task(step, task)
        _settle_foreach(step)
        return
    step.finished += 1
    task.status = StepStatus.COMPLETED if outcome == "succeeded" else StepStatus.FAILED
    if outcome == "succeeded":
        task.output, task.error = event.payload, None
    if step.size is None:
        _finish(state, event, step, task.status, task.output, task.error)
    else:
        _settle_foreach(step)


def _cancel_requested(state: RunState, event: RunEvent) -> None:
    state.cancel_reason = event.data.get("reason", "") or "cancelled"


def _run_completed(state: RunState, event: RunEvent) -> None:
    state.outputs = event.payload
    _end_run(state, event, RunStatus.COMPLETED)


def _run_failed(state: RunState, event: RunEvent) -> None:
    state.error = event.data["error"]
    _end_run(state, event, RunStatus.FAILED)


def _run_cancelled(state: RunState, event: RunEvent) -> None:
    _end_run(state, event, RunStatus.CANCELLED)


def _begin(state: RunState, event: RunEvent) -> StepState:
    step = state.steps[str(event.step_id)]
    if step.started_at is None:
        step.started_at = event.at
    if step.status is StepStatus.QUEUED:
        step.status = StepStatus.RUNNING
    return step


def _task(step: StepState, event: RunEvent) -> TaskState:
    task = step.tasks.get(event.item)
    if task is None:
        task = step.tasks[event.item] = TaskState()
    return task


def _wake(state: RunState, task: TaskState) -> None:
    if task.status in (StepStatus.WAITING, StepStatus.OUTCOME_UNKNOWN):
        state.asleep -= 1
    elif task.status is StepStatus.RUNNING:
        state.active -= 1
    task.due_at = None


def _end_attempt(state: RunState, event: RunEvent) -> tuple[StepState, TaskState]:
    step = _begin(state, event)
    task = _task(step, event)
    _wake(state, task)
    task.attempts = max(task.attempts, event.attempt)
    task.attempt_at = None
    return step, task


def _follow_task(step: StepState, task: TaskState) -> None:
    """Show on the step what its task does. A `foreach` only shows that a person is asked."""
    if step.size is None:
        step.status = task.status
    elif task.status is StepStatus.OUTCOME_UNKNOWN:
        step.status = StepStatus.OUTCOME_UNKNOWN


def _settle_foreach(step: StepState) -> None:
    if step.size is None:
        return
    if step.status is StepStatus.OUTCOME_UNKNOWN and not any(
        task.status is StepStatus.OUTCOME_UNKNOWN for task in step.tasks.values()
    ):
        step.status = StepStatus.RUNNING


def _finish(
    state: RunState,
    event: RunEvent,
    step: StepState,
    status: StepStatus,
    output: JsonValue,
    error: dict[str, JsonValue] | None,
) -> None:
    step.status, step.output, step.error = status, output, error
    step.finished_at = event.at
    state.open -= 1
    step_id = str(event.step_id)
    state.view[step_id] = {"output": output, "error": error, "status": status.value}
    if status is StepStatus.COMPLETED:
        _stand_in(state, step_id, output)


def _stand_in(state: RunState, step_id: str, output: JsonValue) -> None:
    """Show a fallback's output as that of the steps it rescues, and of those for which they were the fallback."""
    standing_in = [step_id]
    for one in standing_in:
        for rescued, fallback in state.fallbacks.items():
            if fallback == one and state.steps[rescued].status is StepStatus.FAILED:
                state.view[rescued] = {**state.view[rescued], "output": output}
                standing_in.append(rescued)


def _end_run(state: RunState, event: RunEvent, status: RunStatus) -> None:
    state.status = status
    state.finished_at = event.at
    state.active = state.asleep = 0
    for step in state.steps.values():
        if not step.status.final:
            for task in step.tasks.values():
                if not task.status.final:
                    task.status, task.due_at, task.attempt_at = StepStatus.CANCELLED, None, None
            step.status = StepStatus.CANCELLED
            step.finished_at = event.at
    state.open = 0


_HANDLERS: dict[EventType, Callable[[RunState, RunEvent], None]] = {
    EventType.RUN_CREATED: _run_created,
    EventType.RUN_RECOVERED: _run_recovered,
    EventType.FOREACH_EXPANDED: _foreach_expanded,
    EventType.ATTEMPT_STARTED: _attempt_started,
    EventType.ATTEMPT_SUCCEEDED: _attempt_succeeded,
    EventType.ATTEMPT_FAILED: _attempt_failed,
    EventType.ATTEMPT_CANCELLED: _attempt_cancelled,
    EventType.STEP_SKIPPED: _step_skipped,
    EventType.STEP_COMPLETED: _step_completed,
    EventType.STEP_FAILED: _step_failed,
    EventType.STEP_RESOLVED: _step_resolved,
    EventType.CANCEL_REQUESTED: _cancel_requested,
    EventType.RUN_COMPLETED: _run_completed,
    EventType.RUN_FAILED: _run_failed,
    EventType.RUN_CANCELLED: _run_cancelled,
}
assert set(_HANDLERS) == set(EventType)
assert NO_ITEM < 0
