"""Faults of control nodes that their schemas cannot say: what excludes each other, what decides the graph."""

from collections.abc import Iterator, Mapping

from core.errors import Fault
from core.json import JsonValue
from engine.expression.template import TemplateExpression
from engine.json_schema import SchemaError, check_schema
from engine.node.version import Lane, NodeVersion
from engine.validation.bodies import NOT_LITERAL
from engine.validation.draft import StepDraft
from engine.validation.links import LinkedStep

_NEVER_TWICE = {
    "flow.end": "it ends the run the first time",
    "flow.merge": "it joins branches, once",
}
_ONE_OF = ("event", "form", "approval")
"""Exactly one of these says what `flow.wait` waits for."""
_NEEDS = {"match": "event", "on_reject": "approval", "on_timeout": "timeout"}
"""Parameters of `flow.wait` that mean something only together with another."""


def control_faults(draft: StepDraft, node: NodeVersion, expressions: list[TemplateExpression]) -> Iterator[Fault]:
    """What is wrong with one step."""
    name, params = node.manifest.name, draft.params or {}
    if draft.foreach is not None and name in _NEVER_TWICE:
        said = f"`{name}` cannot run for each element: {_NEVER_TWICE[name]}"
        yield Fault(f"{draft.path}.foreach", "no_sense", said)
    if draft.cached and (node.lane in {Lane.TIMER, Lane.WAIT, Lane.END} or node.joins):
        yield Fault(f"{draft.path}.cache", "no_sense", f"`{name}` gives nothing that could be used again")
    match name:
        case "flow.wait":
            yield from _wait_faults(f"{draft.path}.with", params, expressions)
        case "flow.merge":
            yield from _merge_faults(f"{draft.path}.with", params)
        case "flow.parallel":
            yield from _parallel_faults(f"{draft.path}.with", params)


def graph_faults(linked: Mapping[str, LinkedStep], needs: Mapping[str, frozenset[str]]) -> Iterator[Fault]:
    """What is wrong with control nodes at their place in the graph. `needs` are those of each step."""
    rescuing = {one.draft.fallback for one in linked.values()}
    for step_id, one in linked.items():
        if one.quorum is not None:
            if step_id in rescuing:
                said = f"`{step_id}` is a fallback, so it cannot start before the steps that it needs are over"
                yield Fault(f"{one.draft.path}.with.mode", "no_sense", said)
            elif one.quorum > len(needs[step_id]):
                field = "count" if (one.draft.params or {}).get("mode") == "count" else "mode"
                said = f"{one.quorum} steps shall be completed, but the step needs only {len(needs[step_id])}"
                yield Fault(f"{one.draft.path}.with.{field}", "bad_value", said)
        ends = [need for need in needs[step_id] if need in linked and _ends(linked[need])]
        if ends and len(ends) == len(needs[step_id]) and not one.joins and step_id not in rescuing:
            said = f"`{step_id}` never runs: the run is over with `{sorted(ends)[0]}`"
            yield Fault(one.draft.path, "never_runs", said)


def _ends(one: LinkedStep) -> bool:
    return (one.draft.node or "").partition("@")[0] == "flow.end"


def _wait_faults(path: str, params: dict[str, JsonValue], expressions: list[TemplateExpression]) -> Iterator[Fault]:
    given = [name for name in _ONE_OF if params.get(name) not in (None, False)]
    if not given:
        said = "what to wait for is missing; give exactly one of `event`, `form` and `approval: true`"
        yield Fault(f"{path}.event", "missing_parameter", said)
    for name in given[1:]:
        said = f"a step waits for one thing; give `{given[0]}` or `{name}`, not both"
        yield Fault(f"{path}.{name}", "bad_value", said)
    for name, needed in _NEEDS.items():
        if params.get(name) is not None and params.get(needed) in (None, False):
            yield Fault(f"{path}.{name}", "no_sense", f"`{name}` means nothing without `{needed}`")
    form = params.get("form")
    if isinstance(form, dict) and not any(one.path.startswith(f"{path}.form") for one in expressions):
        try:
            check_schema(form)
        except SchemaError as error:
            yield Fault(f"{path}.form", "bad_schema", f"`form`: {error}")


def _merge_faults(path: str, params: dict[str, JsonValue]) -> Iterator[Fault]:
    for name in ("mode", "count"):
        value = params.get(name)
        if isinstance(value, str) and "{{" in value:
            yield Fault(f"{path}.{name}", NOT_LITERAL, f"`{name}` must be written out, because it decides the graph")
    counting, count = params.get("mode") == "count", params.get("count")
    if counting and count is None:
        said = "the mode `count` needs the parameter `count`"
        yield Fault(f"{path}.count", "missing_parameter", said)
    if not counting and count is not None and "{{" not in str(params.get("mode")):
        said = "`count` means nothing without `mode: count`"
        yield Fault(f"{path}.count", "no_sense", said)


def _parallel_faults(path: str, params: dict[str, JsonValue]) -> Iterator[Fault]:
    mode, branches = params.get("mode"), params.get("branches")
    if isinstance(mode, bool) or not isinstance(mode, int) or not isinstance(branches, dict):
        return
    if mode > len(branches):
        yield Fault(f"{path}.mode", "bad_value", f"`mode` asks for {mode} branches, but there are {len(branches)}")
