"""The run as a whole: how it begins, is held up, is changed, and ends."""

import uuid
from dataclasses import replace
from typing import Any

from core.ids import RunId
from core.run import RunEvent, RunStatus, StepStatus
from engine.state import ChildRun, RunState, Signal, StepState


def created(state: RunState, event: RunEvent) -> None:
    state.started_at = event.at
    state.status = RunStatus.RUNNING
    data = event.data
    state.breakpoints = frozenset(data.get("breakpoints", ()))
    if "queued" in data:
        state.queued, state.queued_for = True, data["queued"]
    if isinstance(event.payload, dict):
        state.variables = event.payload.get("variables", {})
        for step_id, result in event.payload.get("restored", {}).items():
            _restore(state, event, step_id, result)


def _restore(state: RunState, event: RunEvent, step_id: str, result: dict[str, Any]) -> None:
    step = state.steps.get(step_id)
    if step is None:
        return
    step.status, step.reason = StepStatus(result["status"]), "taken over from an earlier run"
    step.output, step.error = result.get("output"), result.get("error")
    step.started_at = step.finished_at = event.at
    state.open -= 1
    state.view[step_id] = {"output": step.output, "error": step.error, "status": step.status.value}


def admitted(state: RunState, event: RunEvent) -> None:
    state.queued, state.queued_for = False, None
    state.started_at = event.at
    state.paused_seconds = 0.0


def recovered(state: RunState, event: RunEvent) -> None:
    state.recoveries += 1


def paused(state: RunState, event: RunEvent) -> None:
    state.paused_at = event.at
    state.pause_reason = event.data.get("reason", "")


def resumed(state: RunState, event: RunEvent) -> None:
    if state.paused_at is not None:
        since = state.paused_at if state.started_at is None else max(state.paused_at, state.started_at)
        state.paused_seconds += (event.at - since).total_seconds()
    state.paused_at, state.pause_reason = None, ""


def breakpoints_set(state: RunState, event: RunEvent) -> None:
    state.breakpoints = frozenset(event.data["steps"])
    state.released -= state.breakpoints


def signal_received(state: RunState, event: RunEvent) -> None:
    state.signals.append(Signal(str(event.data["command"]), event.data["name"], event.payload))


def graph_patched(state: RunState, event: RunEvent) -> None:
    assert isinstance(event.payload, dict)
    document: dict[str, Any] = event.payload["spec"]
    state.spec = document
    state.record = replace(state.record, pins=event.payload["pins"])
    steps: dict[str, StepState] = {}
    for step in document["steps"]:
        step_id = step["id"]
        if step_id not in state.steps:
            state.open += 1
            state.view[step_id] = {"output": None, "error": None, "status": "queued"}
        steps[step_id] = state.steps.get(step_id) or StepState()
    for step_id in [one for one in state.steps if one not in steps]:
        state.open -= 1
        del state.view[step_id]
    state.steps = steps
    state.fallbacks = fallbacks_of(document)


def fallbacks_of(document: dict[str, Any]) -> dict[str, str]:
    """For each step of a spec with `on_error: {use: ...}` the step that stands in for it."""
    found: dict[str, str] = {}
    for step in document["steps"]:
        on_error = step.get("on_error")
        if isinstance(on_error, dict):
            found[step["id"]] = on_error["use"]
    return found


def variable_set(state: RunState, event: RunEvent) -> None:
    state.variables[event.data["name"]] = {
        "value": event.payload,
        "scope": event.data["scope"],
        "expires_at": event.data.get("expires_at"),
    }


def cancel_requested(state: RunState, event: RunEvent) -> None:
    state.cancel_reason = event.data.get("reason", "") or "cancelled"


def fallback_started(state: RunState, event: RunEvent) -> None:
    state.failing = event.data["error"]
    state.fallback = ChildRun(
        RunId(uuid.UUID(event.data["run_id"])), workflow=event.data["workflow"], version=event.data["version"]
    )


def completed(state: RunState, event: RunEvent) -> None:
    state.outputs = event.payload
    if "error" in event.data:  # another workflow has made up for it
        state.error = event.data["error"]
    _end(state, event, RunStatus.COMPLETED)


def failed(state: RunState, event: RunEvent) -> None:
    state.error = event.data["error"]
    _end(state, event, RunStatus.FAILED)


def cancelled(state: RunState, event: RunEvent) -> None:
    _end(state, event, RunStatus.CANCELLED)


def _end(state: RunState, event: RunEvent, status: RunStatus) -> None:
    state.status = status
    state.finished_at = event.at
    state.active = state.asleep = 0
    resumed(state, event)
    state.queued, state.queued_for = False, None
    state.signals.clear()
    for step_id, step in state.steps.items():
        if not step.status.final:
            state.view[step_id] = {"output": None, "error": None, "status": StepStatus.CANCELLED.value}
            for task in step.tasks.values():
                if not task.status.final:
                    task.status, task.due_at, task.attempt_at = StepStatus.CANCELLED, None, None
                    task.waiting = task.wait = None
            step.status = StepStatus.CANCELLED
            step.finished_at = event.at
            step.waiting = None
    state.open = 0
