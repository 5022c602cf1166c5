"""Faults of what surrounds the steps: policies, variables, the versions and workflows that are named."""

import math
from collections.abc import Callable, Iterator

from core.errors import Fault
from core.json import JsonValue
from engine.json_path import child
from engine.node.registry import NodeRegistry
from engine.validation.draft import StepDraft
from engine.validation.expressions import Place, Scan, reference_faults
from engine.wording import did_you_mean, nearest, shortened

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
    if weights is None:
        return
    path = f"{draft.path}.route.weights"
    shares = [one for one in weights.values() if isinstance(one, (int, float)) and not isinstance(one, bool)]
    for version, share in weights.items():
        if isinstance(share, (int, float)) and not (math.isfinite(share) and share >= 0):
            yield Fault(child(path, version), "bad_value", "a share is 0 or more")
    if len(shares) == len(weights) and not any(one > 0 for one in shares):
        yield Fault(path, "bad_value", "at least one version needs a share above 0")
    if name in registry.names():
        known = [one for version in registry.versions(name) for one in (version.manifest.version, version.label) if one]
        for version in weights:
            if version not in known:
                suggestion = nearest(version, known)
                said = f"`{name}` has no version or label `{shortened(version, 60)}`{did_you_mean(suggestion)}"
                yield Fault(child(path, version), "unknown_version", said, suggestion)


def _has_expression(value: JsonValue) -> bool:
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str) and "{{" in one:
            return True
        if isinstance(one, (dict, list)):
            rest.extend(one.values() if isinstance(one, dict) else one)
    return False
