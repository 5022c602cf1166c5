"""Runs as the API shows them."""

from datetime import datetime
from typing import Any

from api.answer import instant
from core.run import NO_ITEM, RunEvent, StepStatus, WaitReason
from engine.state import RunState, StepState
from infra.postgres.runs import RunSummary


def run_json(state: RunState) -> dict[str, Any]:
    """A run with its steps."""
    record = state.record
    shown: dict[str, Any] = {
        "id": str(record.id),
        "workflow_id": str(record.workflow_id),
        "workflow": record.workflow,
        "workflow_version": record.workflow_version,
        "status": state.status.value,
        "input": record.input,
        "outputs": state.outputs,
        "context": record.context,
        "created_at": _time(record.created_at),
        "finished_at": _time(state.finished_at),
        "created_by": record.created_by,
        "recoveries": state.recoveries,
        "cost_usd": state.cost_usd,
        "paused": state.paused,
        "breakpoints": sorted(state.breakpoints),
        "steps": [
            step_json(step_id, step, record.pins.get(step_id, ""), _held(state))
            for step_id, step in state.steps.items()
        ],
    }
    if record.unit_key:
        shown["unit_key"] = record.unit_key
    if state.error is not None:
        shown["error"] = state.error
    if state.cancel_reason:
        shown["cancel_reason"] = state.cancel_reason
    if state.paused and state.pause_reason:
        shown["pause_reason"] = state.pause_reason
    _add_relatives(shown, state)
    return shown


def _add_relatives(shown: dict[str, Any], state: RunState) -> None:
    options = state.options
    if options.restarted_from is not None:
        shown["restarted_from"] = str(options.restarted_from)
    if options.parent is not None:
        shown["parent"] = {"run_id": str(options.parent.run_id), "step_id": options.parent.step_id or None}
    if state.fallback is not None:
        shown["fallback_run"] = str(state.fallback.id)


def step_json(step_id: str, step: StepState, version: str, held: dict[str, Any] | None = None) -> dict[str, Any]:
    """A step of a run. `held` is why no step of the run starts, if that is so."""
    task = step.tasks.get(NO_ITEM)
    shown: dict[str, Any] = {
        "id": step_id,
        # The arm's, once one is drawn.
        "node_version": version if task is None or task.route is None else task.route["version"],
        "status": step.status.value,
        "attempts": step.attempts,
        "started_at": _time(step.started_at),
        "finished_at": _time(step.finished_at),
    }
    if step.status is StepStatus.COMPLETED:
        shown["output"] = step.output
    error = step.error or (step.tasks[NO_ITEM].error if NO_ITEM in step.tasks else None)
    if error is not None:
        shown["error"] = error
    if step.reason:
        shown["reason"] = step.reason
    if step.size is not None:
        shown["items"] = {"total": step.size, "finished": step.finished}
    waiting_for = _waiting_for(step, held)
    if waiting_for is not None:
        shown["waiting_for"] = waiting_for
    _add_service(shown, step)
    return shown


def _add_service(shown: dict[str, Any], step: StepState) -> None:
    """Who does the step's work: the arm, the cache, other runs."""
    task = step.tasks.get(NO_ITEM)
    if task is not None and task.route is None and task.children is None and not task.cache_hit:
        return  # most steps
    if task is not None and task.route is not None:
        shown["arm"] = task.route.get("label") or task.route.get("version", "")
    if task is not None and task.cache_hit:
        shown["cache_hit"] = True
    children = [
        {
            "run_id": str(child.id),
            "index": index,
            "status": child.status.value,
            **({} if item == NO_ITEM else {"item": item}),
        }
        for item, one in step.tasks.items()
        for index, child in (one.children or {}).items()
    ]
    if children:
        shown["children"] = children


def _held(state: RunState) -> dict[str, Any] | None:
    """Why no step of the run starts at this moment."""
    if state.status.final:
        return None
    if state.paused:
        return {"reason": WaitReason.PAUSED.value, "detail": state.pause_reason or "the run is paused"}
    if state.queued:
        return {"reason": WaitReason.CONCURRENCY_LIMIT.value, "detail": "as many runs as may be are under way"}
    return None


def _waiting_for(step: StepState, held: dict[str, Any] | None) -> dict[str, Any] | None:
    if step.status.final:
        return None
    if step.waiting is not None:
        return _reason(step.waiting, None, NO_ITEM)
    for item, task in step.tasks.items():
        if task.waiting is not None and not task.status.final:
            return _reason(task.waiting, task.wait, item)
    if step.status is StepStatus.OUTCOME_UNKNOWN:
        return {"reason": "outcome_unknown", "detail": "a person has to say what became of the attempt"}
    if step.status is StepStatus.QUEUED:
        return held or {"reason": WaitReason.DEPENDENCY.value}
    return None


def _reason(waiting: dict[str, Any], wait: dict[str, Any] | None, item: int) -> dict[str, Any]:
    shown = {key: waiting[key] for key in ("reason", "detail", "until", "input") if waiting.get(key) not in (None, "")}
    if "until" in shown:
        shown["until"] = instant(datetime.fromisoformat(shown["until"]))
    if wait is not None and wait.get("kind") in ("approval", "form"):
        shown.update({key: wait[key] for key in ("role", "form", "plan") if wait.get(key) is not None})
    if item != NO_ITEM:
        shown["item"] = item
    return shown


def event_json(event: RunEvent) -> dict[str, Any]:
    """An event of a run."""
    shown: dict[str, Any] = {
        "seq": event.seq,
        "type": event.type.value,
        "at": _time(event.at),
        "data": dict(event.data),
    }
    if event.step_id is not None:
        shown["step_id"] = event.step_id
    if event.item != NO_ITEM:
        shown["item"] = event.item
    if event.attempt:
        shown["attempt"] = event.attempt
    if event.payload is not None:
        shown["data"]["output"] = event.payload
    return shown


def summary_json(summary: RunSummary) -> dict[str, Any]:
    """A run as lists show it."""
    shown: dict[str, Any] = {
        "id": str(summary.id),
        "workflow_id": str(summary.workflow_id),
        "workflow": summary.workflow,
        "workflow_version": summary.workflow_version,
        "status": summary.status.value,
        "created_at": _time(summary.created_at),
        "finished_at": _time(summary.finished_at),
        "created_by": summary.created_by,
        "recoveries": summary.recoveries,
    }
    if summary.error is not None:
        shown["error"] = summary.error
    return shown


def _time(value: datetime | None) -> str | None:
    return None if value is None else instant(value)
