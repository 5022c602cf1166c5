"""Steps: why they wait, how they end, and that they run again."""

from datetime import datetime
from typing import Any

from core.json import JsonValue
from core.run import NO_ITEM, RunEvent, StepStatus
from engine.fold.task import begin, finish, follow_task, settle_foreach, step_of, task_of, wake
from engine.state import RunState, StepState

_WHY = ("reason", "detail", "until")


def waiting(state: RunState, event: RunEvent) -> None:
    step = step_of(state, event)
    why: dict[str, Any] = {key: one for key, one in event.data.items() if key in _WHY}
    if event.data.get("attempt"):  # the attempt in flight waits for something, and stays in flight
        task = task_of(step, event.item)
        task.waiting = why if why["reason"] else None
        if event.data.get("approved") and task.wait is not None:
            task.wait = {**task.wait, "approved": True}
        return
    if event.item == NO_ITEM and event.data["reason"] == "breakpoint":
        step.status, step.waiting = StepStatus.WAITING, why
        if event.payload is not None:
            step.waiting = {**why, "input": event.payload}
        state.asleep += 1
        return
    task = task_of(step, event.item)
    wake(state, task)
    task.status, task.waiting = StepStatus.WAITING, why
    if "until" in why:
        task.due_at = datetime.fromisoformat(why["until"])
    state.asleep += 1
    follow_task(step, task)


def breakpoint_passed(state: RunState, event: RunEvent) -> None:
    step = step_of(state, event)
    step.status, step.waiting = StepStatus.QUEUED, None
    state.asleep -= 1
    state.released |= {str(event.step_id)}
    state.stepping = event.data["mode"] == "step"
    _override(state, event)


def foreach_expanded(state: RunState, event: RunEvent) -> None:
    step = begin(state, event)
    step.size = int(event.data["size"])
    if isinstance(event.payload, list):
        step.values = event.payload


def skipped(state: RunState, event: RunEvent) -> None:
    step = step_of(state, event)
    step.reason = event.data.get("reason", "")
    finish(state, event, StepStatus.SKIPPED, None, None)


def completed(state: RunState, event: RunEvent) -> None:
    step = step_of(state, event)
    elements = (step.tasks[index] for index in range(step.size or 0))
    output: list[JsonValue] = [
        task.output if task.status is StepStatus.COMPLETED else {"error": task.error} for task in elements
    ]
    step.values = None
    finish(state, event, StepStatus.COMPLETED, output, None)


def failed(state: RunState, event: RunEvent) -> None:
    for task in step_of(state, event).tasks.values():
        if not task.status.final:  # an element that waited for its next attempt, for room, or for a person
            wake(state, task)
            task.status, task.attempt_at = StepStatus.CANCELLED, None
    finish(state, event, StepStatus.FAILED, None, event.data["error"])


def resolved(state: RunState, event: RunEvent) -> None:
    step = step_of(state, event)
    task = task_of(step, event.item)
    wake(state, task)
    outcome = event.data["outcome"]
    if outcome == "retry":
        task.status = StepStatus.QUEUED
        follow_task(step, task)
        settle_foreach(step)
        return
    step.finished += 1
    task.status = StepStatus.COMPLETED if outcome == "succeeded" else StepStatus.FAILED
    if outcome == "succeeded":
        task.output, task.error = event.payload, None
    if step.size is None:
        finish(state, event, task.status, task.output, task.error)
    else:
        settle_foreach(step)


def redriven(state: RunState, event: RunEvent) -> None:
    if state.status.final:
        if state.finished_at is not None:
            state.paused_seconds += (event.at - state.finished_at).total_seconds()  # it stood still meanwhile
        state.finished_at = None
        state.revived = True
        state.cancel_reason = ""
        state.error = state.outputs = state.failing = None
        state.fallback = None
        state.status = state.status.RUNNING
    if "queued" in event.data:
        state.queued, state.queued_for = True, event.data["queued"]
    for step_id in event.data["steps"]:
        _reset(state, step_id)
    _override(state, event)


def _reset(state: RunState, step_id: str) -> None:
    old = state.steps[step_id]
    for task in old.tasks.values():
        wake(state, task)
    if old.waiting is not None and old.status is StepStatus.WAITING:
        state.asleep -= 1  # it stood at a breakpoint
    past = dict(old.past or {})
    past.update((item, task.attempts) for item, task in old.tasks.items())
    drives = old.drives + (1 if old.status is StepStatus.COMPLETED else 0)
    if old.status.final:
        state.open += 1
    state.steps[step_id] = StepState(past=past or None, drives=drives)
    state.view[step_id] = {"output": None, "error": None, "status": "queued"}
    state.released -= {step_id}


def _override(state: RunState, event: RunEvent) -> None:
    if isinstance(event.payload, dict):
        step_id = str(event.step_id)
        state.overrides[step_id] = {**state.overrides.get(step_id, {}), **event.payload}
        state.steps[step_id].drives += 1
