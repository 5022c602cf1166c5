"""A run read back from its journal, without the nodes that it used: for showing it, and for going on with it."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson

from core.ids import RunId
from core.journal import StoredRun
from core.run import NO_ITEM, PLAIN, Parent, RunEvent, RunOptions
from core.spec import UseStep, WorkflowSpec
from engine.fold import apply
from engine.state import RunState, fresh


def state_of(stored: StoredRun) -> RunState:
    """The state that a run's history gives."""
    options = options_of(stored.events)
    step_ids, fallbacks = _shape(orjson.dumps(stored.spec if options.spec is None else options.spec))
    state = fresh(stored.record, list(step_ids), dict(fallbacks), options)
    for event in stored.events:
        apply(state, event)
    return state


def as_it_is_now(stored: StoredRun, state: RunState) -> StoredRun:
    """The run with the graph that it has by now, which may have been changed since it began."""
    if state.spec is None:
        return stored
    return replace(stored, spec=state.spec, record=state.record)


def options_of(events: Sequence[RunEvent]) -> RunOptions:
    """What the run was given besides its input."""
    if not events:
        return PLAIN
    data = events[0].data
    payload = events[0].payload if isinstance(events[0].payload, dict) else {}
    if not payload and data.keys() <= {"workflow_version"}:
        return PLAIN
    restarted = data.get("restarted_from")
    return RunOptions(
        breakpoints=tuple(data.get("breakpoints", ())),
        priority=data.get("priority"),
        session=data.get("session", ""),
        restarted_from=None if restarted is None else RunId(uuid.UUID(restarted)),
        parent=_parent(data.get("parent")),
        spec=payload.get("spec"),
    )


def _parent(told: dict[str, Any] | None) -> Parent | None:
    if told is None:
        return None
    return Parent(
        RunId(uuid.UUID(told["run_id"])), told["step_id"], told.get("item", NO_ITEM), told["index"], told["depth"]
    )


@lru_cache(maxsize=256)
def _shape(spec_json: bytes) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    spec = WorkflowSpec.model_validate_json(spec_json)
    fallbacks = tuple((step.id, step.on_error.use) for step in spec.steps if isinstance(step.on_error, UseStep))
    return tuple(step.id for step in spec.steps), fallbacks
