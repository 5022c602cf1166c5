"""Runs as the API shows them."""

from datetime import datetime
from typing import Any

from api.answer import instant
from core.run import NO_ITEM, RunEvent, StepStatus
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
        "steps": [step_json(step_id, step, record.pins.get(step_id, "")) for step_id, step in state.steps.items()],
    }
    if record.unit_key:
        shown["unit_key"] = record.unit_key
    if state.error is not None:
        shown["error"] = state.error
    if state.cancel_reason:
        shown["cancel_reason"] = state.cancel_reason
    return shown


def step_json(step_id: str, step: StepState, version: str) -> dict[str, Any]:
    """A step of a run."""
    shown: dict[str, Any] = {
        "id": step_id,
        "node_version": version,
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
    waiting_for = _waiting_for(step)
    if waiting_for is not None:
        shown["waiting_for"] = waiting_for
    return shown


def _waiting_for(step: StepState) -> dict[str, Any] | None:
    if step.status is StepStatus.OUTCOME_UNKNOWN:
        return {"reason": "outcome_unknown", "detail": "a person has to say what became of the attempt"}
    task = step.tasks.get(NO_ITEM)
    if task is not None and task.status is StepStatus.WAITING:
        reason = "delay" if task.attempt_at is not None else "retry"
        return {"reason": reason, "until": _time(task.due_at)}
    if step.status is StepStatus.QUEUED:
        return {"reason": "dependency"}
    return None


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
