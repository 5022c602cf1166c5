"""What the handlers of the fold have in common: finding a task, waking it, finishing its step."""

from core.json import JsonValue
from core.run import RunEvent, StepStatus
from engine.state import RunState, StepState, TaskState

_ASLEEP = (StepStatus.WAITING, StepStatus.OUTCOME_UNKNOWN)


def step_of(state: RunState, event: RunEvent) -> StepState:
    """The step that an event is about."""
    return state.steps[str(event.step_id)]


def begin(state: RunState, event: RunEvent) -> StepState:
    """The step that an event is about, which has begun with it at the latest."""
    step = step_of(state, event)
    if step.started_at is None:
        step.started_at = event.at
    if step.status is StepStatus.QUEUED:
        step.status = StepStatus.RUNNING
    return step


def task_of(step: StepState, item: int) -> TaskState:
    """The task of an element. A new one goes on counting where earlier drives of the step have ended."""
    task = step.tasks.get(item)
    if task is None:
        past = step.past.get(item, 0) if step.past else 0
        task = step.tasks[item] = TaskState(attempts=past, spent=past)
    return task


def wake(state: RunState, task: TaskState) -> None:
    """The task does not wait or run any more, as far as the counts go."""
    if task.status in _ASLEEP:
        state.asleep -= 1
    elif task.status is StepStatus.RUNNING:
        state.active -= 1
    task.due_at = None
    task.waiting = None


def follow_task(step: StepState, task: TaskState) -> None:
    """Show on the step what its task does. A `foreach` only shows that a person is asked."""
    if step.size is None:
        step.status = task.status
    elif task.status is StepStatus.OUTCOME_UNKNOWN:
        step.status = StepStatus.OUTCOME_UNKNOWN


def settle_foreach(step: StepState) -> None:
    """A `foreach` stops asking a person once none of its elements does."""
    if step.size is None:
        return
    if step.status is StepStatus.OUTCOME_UNKNOWN and not any(
        task.status is StepStatus.OUTCOME_UNKNOWN for task in step.tasks.values()
    ):
        step.status = StepStatus.RUNNING


def finish(
    state: RunState,
    event: RunEvent,
    status: StepStatus,
    output: JsonValue,
    error: dict[str, JsonValue] | None,
) -> None:
    """The step is final."""
    step_id = str(event.step_id)
    step = state.steps[step_id]
    step.status, step.output, step.error = status, output, error
    step.finished_at = event.at
    step.waiting = None
    state.open -= 1
    state.view[step_id] = {"output": output, "error": error, "status": status.value}
    if status is StepStatus.COMPLETED:
        _stand_in(state, step_id, output)


def _stand_in(state: RunState, step_id: str, output: JsonValue) -> None:
    """Show a fallback's output as that of the steps it rescues, and of those for which they were the fallback."""
    if not state.fallbacks:
        return
    standing_in = [step_id]
    for one in standing_in:
        for rescued, fallback in state.fallbacks.items():
            if fallback == one and state.steps[rescued].status is StepStatus.FAILED:
                state.view[rescued] = {**state.view[rescued], "output": output}
                standing_in.append(rescued)
