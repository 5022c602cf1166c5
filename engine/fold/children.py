"""Runs that a step has started."""

import uuid

from core.ids import RunId
from core.run import RunEvent, RunStatus
from engine.fold.task import step_of, task_of
from engine.state import ChildRun, RunState


def started(state: RunState, event: RunEvent) -> None:
    task = task_of(step_of(state, event), event.item)
    children = task.children
    if children is None:
        children = task.children = {}
    data = event.data
    before = children.get(data["index"])
    children[data["index"]] = ChildRun(
        RunId(uuid.UUID(data["run_id"])),
        workflow=data.get("workflow", ""),
        version=data.get("version", 0),
        tries=before.tries + 1 if before else 1,
    )


def ended(state: RunState, event: RunEvent) -> None:
    data = event.data
    if event.step_id is None:
        child = state.fallback
    else:
        child = (task_of(step_of(state, event), event.item).children or {}).get(data["index"])
    if child is None or child.status.final:
        return
    child.status = RunStatus(data["status"])
    child.output, child.error = event.payload, data.get("error")
    child.cost = data.get("cost_usd", 0.0)
    state.cost_usd += child.cost
