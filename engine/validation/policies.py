"""Faults of what surrounds the steps: policies, variables, the versions and workflows that are named."""

from collections.abc import Callable, Iterator

from core.errors import Fault
from core.json import JsonValue
from core.spec import StepRoute
from engine.json_path import child
from engine.node.registry import NodeRegistry
from engine.routing.check import step_route_faults
from engine.validation.draft import StepDraft
from engine.validation.expressions import Place, Scan, reference_faults
from engine.wording import shortened

_RUN_KEY = Place(("input", "context"))

KnownWorkflows = Callable[[str], bool]
"""Whether there is a workflow of this name."""


def policy_faults(document: dict[str, JsonValue], known: KnownWorkflows | None) -> Iterator[Fault]:
    """What is wrong with `policies`, apart from its shape."""
    policies = document.get("policies")
    if not isinstance(policies, dict):
        return
    fallback = policies.get("fallback_workflow")
    if isinstance(fallback, str):
        path = "$.policies.fallback_workflow"
        if fallback == document.get("name"):
            yield Fault(path, "cycle", "a workflow cannot be its own fallback")
        else:
            yield from workflow_faults(fallback, path, known)
    concurrency = policies.get("concurrency")
    key = concurrency.get("key") if isinstance(concurrency, dict) else None
    if isinstance(key, str):
        scan = Scan()
        scan.key(key, "$.policies.concurrency.key", _RUN_KEY)
        yield from scan.faults
        yield from reference_faults(scan, {}, document.get("inputs", {}))


def workflow_faults(name: str, path: str, known: KnownWorkflows | None) -> Iterator[Fault]:
    """Whether a workflow that is named exists, as far as that can be told."""
    if known is not None and not known(name):
        yield Fault(path, "unknown_workflow", f"there is no workflow `{shortened(name, 100)}`; create it first")


def variable_faults(document: dict[str, JsonValue]) -> Iterator[Fault]:
    """Declared values that hold expressions: nothing resolves them."""
    variables = document.get("variables")
    for name, declared in variables.items() if isinstance(variables, dict) else ():
        if _has_expression(declared):
            said = "a variable is declared with a plain value; set a computed one with the node `vars.set`"
            yield Fault(child("$.variables", name), "bad_value", said)


def weight_faults(draft: StepDraft, registry: NodeRegistry) -> Iterator[Fault]:
    """What is wrong with the shares of `route`: versions that are not there, shares that are none."""
    weights, name = draft.weights, (draft.node or "").partition("@")[0]
    if isinstance(weights, dict) and name in registry.names() and all(map(_is_number, weights.values())):
        route = StepRoute.model_construct(weights=weights)
        yield from step_route_faults(route, registry.versions(name), f"{draft.path}.route")


def _is_number(value: JsonValue) -> bool:
    # Another type is reported with the shape of the document.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_expression(value: JsonValue) -> bool:
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str) and "{{" in one:
            return True
        if isinstance(one, (dict, list)):
            rest.extend(one.values() if isinstance(one, dict) else one)
    return False
