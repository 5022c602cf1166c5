"""What expressions of a run may refer to."""

from datetime import datetime

from core.json import JsonValue
from engine.state import RunState


def scope_of(state: RunState, now: datetime) -> dict[str, JsonValue]:
    """Values by root name. But for variables that expire, the same state always gives the same."""
    record = state.record
    if state.run_view is None:
        state.run_view = {
            "id": str(record.id),
            "workflow": record.workflow,
            "workflow_version": record.workflow_version,
            "created_at": record.created_at.isoformat(),
        }
    return {
        "input": record.input,
        "steps": state.view,
        "context": record.context,
        "vars": _variables(state, now) if state.variables else {},
        "run": state.run_view,
    }


def _variables(state: RunState, now: datetime) -> dict[str, JsonValue]:
    return {
        name: one["value"]
        for name, one in state.variables.items()
        if one.get("expires_at") is None or datetime.fromisoformat(one["expires_at"]) > now
    }
