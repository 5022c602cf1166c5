"""The names of what can be limited, and how they are told to people. For nodes see `core.limit.NodeLimit`."""

import hashlib
from dataclasses import dataclass

from core.duration import format_duration
from core.ids import WorkflowId
from core.json import JsonValue, canonical
from core.limit import Limit


def workflow_scope(workflow_id: WorkflowId, key: JsonValue = None, keyed: bool = False) -> str:
    """The runs of a workflow; with `keyed` those with an equal key."""
    return f"workflow:{workflow_id}{_key(key, keyed)}"


def step_scope(workflow_id: WorkflowId, step_id: str, key: JsonValue = None, keyed: bool = False) -> str:
    """The calls of a step over all runs; with `keyed` those with an equal key."""
    return f"step:{workflow_id}:{step_id}{_key(key, keyed)}"


@dataclass(frozen=True, slots=True)
class ScopeName:
    """What a scope's name says.

    Attributes:
        kind: `workflow`, `step` or `node`.
        workflow_id: empty for a node.
        name: the node or the step; empty for a workflow.
        keyed: it is one of many, by a key.
    """

    kind: str
    workflow_id: str
    name: str
    keyed: bool


def parsed(scope: str) -> ScopeName:
    """What a scope's name says."""
    kind, _, rest = scope.partition(":")
    owner, _, name = rest.partition(":")
    if kind == "node":
        return ScopeName(kind, "", name, False)
    if kind == "step":
        step, _, key = name.partition(":")
        return ScopeName(kind, owner, step, bool(key))
    return ScopeName(kind, owner, "", bool(name))


def told(scope: str, limit: Limit, full: bool) -> tuple[str, str]:
    """Why somebody waits for a scope: the reason's name, and a sentence."""
    one = parsed(scope)
    what = f"the {one.kind} {one.name}".rstrip() + (", for this key," if one.keyed else "")
    if limit.rate is not None and (limit.max is None or not full):
        rate = limit.rate
        return "rate_limit", f"{what} has a limit of {rate.calls} in {format_duration(rate.per)}"
    return "concurrency_limit", f"{what} has a limit of {limit.max} at once"


def _key(key: JsonValue, keyed: bool) -> str:
    # A hash: keys may be long, and they may be what nobody but the run should show.
    return f":{hashlib.blake2b(canonical(key), digest_size=12).hexdigest()}" if keyed else ""
