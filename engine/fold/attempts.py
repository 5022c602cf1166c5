"""Attempts: each has a beginning and one end."""

from datetime import datetime
from typing import Any

from core.manifest import Effect
from core.run import RunEvent, StepStatus
from engine.fold.task import begin, finish, follow_task, settle_foreach, step_of, task_of, wake
from engine.state import RunState, StepState, TaskState


def started(state: RunState, event: RunEvent) -> None:
    step = begin(state, event)
    task = task_of(step, event.item)
    wake(state, task)
    data = event.data
    task.attempts = event.attempt
    task.attempt_at = event.at
    task.effect = Effect(data.get("effect", Effect.UNSAFE))
    task.remote = "remote" in data
    task.wait = data.get("wait")
    task.route = data.get("route", task.route)
    if "children" in data:
        task.children = {}
        task.given = event.payload if isinstance(event.payload, dict) else None
    due = data.get("due_at")
    task.due_at = None if due is None else datetime.fromisoformat(due)
    if task.children is not None:
        task.status, task.waiting = StepStatus.RUNNING, {"reason": "children"}
        state.active += 1
    elif due is None and task.wait is None:
        task.status = StepStatus.RUNNING
        state.active += 1
    else:
        task.status = StepStatus.WAITING
        task.waiting = _why(task.wait, due)
        state.asleep += 1
    follow_task(step, task)


def _why(wait: dict[str, Any] | None, due: str | None) -> dict[str, Any]:
    if wait is None:
        return {"reason": "delay", "until": due}
    why: dict[str, Any] = {"reason": wait["kind"], "detail": wait.get("name") or wait.get("message", "")}
    if due is not None:
        why["until"] = due
    return why


def plan_proposed(state: RunState, event: RunEvent) -> None:
    step = step_of(state, event)
    task = task_of(step, event.item)
    wake(state, task)
    task.status, task.waiting = StepStatus.WAITING, {"reason": "approval", "detail": "the planned steps"}
    task.wait = {"kind": "approval", "role": event.data["role"], "trace": event.data["trace"], "plan": event.payload}
    state.asleep += 1
    follow_task(step, task)


def succeeded(state: RunState, event: RunEvent) -> None:
    step, task = _end(state, event)
    task.status = StepStatus.COMPLETED
    task.output = event.payload
    task.error = None
    step.finished += 1
    if "signal" in event.data:
        state.signals = [one for one in state.signals if one.id != event.data["signal"]]
    if step.size is None:
        finish(state, event, StepStatus.COMPLETED, event.payload, None)
    else:
        settle_foreach(step)


def failed(state: RunState, event: RunEvent) -> None:
    step, task = _end(state, event)
    data = event.data
    task.error = data["error"]
    if data.get("lost"):
        task.lost += 1
    if "arm_failed" in data:
        task.failed_arms = (*task.failed_arms, data["arm_failed"])
        task.spent = task.attempts
    what_next = data["next"]
    if what_next == "retry":
        task.status = StepStatus.WAITING
        task.waiting = {"reason": "retry", "until": data["retry_at"]}
        task.due_at = datetime.fromisoformat(data["retry_at"])
        task.delay = data.get("delay")
        state.asleep += 1
        follow_task(step, task)
    elif what_next == "ask":
        task.status = StepStatus.OUTCOME_UNKNOWN
        task.waiting = {
            "reason": "outcome_unknown",
            "detail": "a person has to say what became of the attempt",
        }
        state.asleep += 1
        follow_task(step, task)
    else:
        task.status = StepStatus.FAILED
        step.finished += 1
        if step.size is None:
            finish(state, event, StepStatus.FAILED, None, task.error)
        else:
            settle_foreach(step)


def cancelled(state: RunState, event: RunEvent) -> None:
    step, task = _end(state, event)
    task.status = StepStatus.CANCELLED
    step.finished += 1
    if step.size is None:
        finish(state, event, StepStatus.CANCELLED, None, None)


def _end(state: RunState, event: RunEvent) -> tuple[StepState, TaskState]:
    step = begin(state, event)
    task = task_of(step, event.item)
    wake(state, task)
    trace = event.data.get("trace")
    if trace:
        state.cost_usd += trace.get("cost_usd", 0.0)
        task.cache_hit = trace.get("cache_hit", False)
    task.attempts = max(task.attempts, event.attempt)
    task.attempt_at = None
    task.remote = False
    task.wait = None
    if "route" in event.data:
        task.route = event.data["route"]
    return step, task
