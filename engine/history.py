"""A run read back from its journal, without the nodes that it used: for showing it."""

from functools import lru_cache

import orjson

from core.journal import StoredRun
from core.spec import UseStep, WorkflowSpec
from engine.fold import apply
from engine.state import RunState, fresh


def state_of(stored: StoredRun) -> RunState:
    """The state that a run's history gives."""
    step_ids, fallbacks = _shape(orjson.dumps(stored.spec))
    state = fresh(stored.record, list(step_ids), dict(fallbacks))
    for event in stored.events:
        apply(state, event)
    return state


@lru_cache(maxsize=256)
def _shape(spec_json: bytes) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    spec = WorkflowSpec.model_validate_json(spec_json)
    fallbacks = tuple((step.id, step.on_error.use) for step in spec.steps if isinstance(step.on_error, UseStep))
    return tuple(step.id for step in spec.steps), fallbacks
