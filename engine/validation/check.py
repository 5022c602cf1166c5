"""The checks in order. Pure and fast: nothing is resolved, fetched or evaluated."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from core.errors import Fault
from core.json import JsonValue
from core.spec import WorkflowSpec
from engine.graph import Graph, build
from engine.json_path import contains
from engine.json_schema import SchemaError, check_schema
from engine.node.registry import NodeNotFound, NodeRegistry
from engine.node.version import NodeVersion
from engine.validation.bodies import NOT_LITERAL, body_faults, body_paths, workflows_of
from engine.validation.control import control_faults, graph_faults
from engine.validation.document import document_faults
from engine.validation.draft import StepDraft, read_steps
from engine.validation.expressions import Place, Scan, reference_faults, scan_step
from engine.validation.links import LinkedStep, by_id, cycle_faults, links_of, name_faults, orphan_faults
from engine.validation.parameters import parameter_faults
from engine.validation.policies import (
    KnownWorkflows,
    policy_faults,
    variable_faults,
    weight_faults,
    workflow_faults,
)
from engine.validation.shape import read_spec
from engine.validation.triggers import trigger_faults
from engine.wording import did_you_mean, nearest, sentence, shortened

MAX_FAULTS = 500
"""Faults that are returned at once."""

_STEP_INDEX = re.compile(r"\$\.steps\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Validated:
    """A spec without faults, with its graph."""

    spec: WorkflowSpec
    graph: Graph


def validate(
    document: JsonValue, registry: NodeRegistry, known_workflows: KnownWorkflows | None = None
) -> Validated | list[Fault]:
    """Check a decoded document.

    Args:
        known_workflows: whether there is a workflow of a name; without it, names of workflows are taken as they are.

    Returns:
        the spec, or all faults at once in the order of the document (MAX_FAULTS at most; never an empty list).
    """
    faults = document_faults(document)
    if faults:
        return _ordered(faults)
    known = _or_itself(known_workflows, document.get("name"))
    return _Check(document, registry, known).run()


def _or_itself(known: KnownWorkflows | None, name: JsonValue) -> KnownWorkflows | None:
    """A workflow may start itself, also before it is stored for the first time."""
    return None if known is None else lambda other: other == name or known(other)


@dataclass(frozen=True, slots=True)
class _Check:
    """One document: a workflow, or the body of a step of one."""

    document: dict[str, JsonValue]
    registry: NodeRegistry
    known: KnownWorkflows | None
    is_body: bool = False

    def run(self) -> Validated | list[Fault]:
        document = self.document
        spec, faults = read_spec(document)
        drafts = read_steps(document)
        steps, doubles = by_id(drafts)
        faults += doubles
        inputs = document.get("inputs", {})
        faults += _inputs_faults(inputs)
        faults += [*policy_faults(document, self.known), *variable_faults(document), *trigger_faults(document)]
        linked: dict[str, LinkedStep] = {}
        for draft in drafts:
            node = _resolve(draft, self.registry, faults)
            scan = scan_step(draft, node.manifest if node else None, self.is_body)
            faults += [*scan.faults, *reference_faults(scan, steps, inputs), *name_faults(draft, steps)]
            faults += weight_faults(draft, self.registry)
            if node is not None and draft.params is not None:
                faults += self._node_faults(draft, draft.params, node, scan)
            if draft.id is not None:
                linked.setdefault(draft.id, LinkedStep(draft, scan, node is not None and node.joins))
        outputs = Scan()
        outputs.template(document.get("outputs", {}), "$.outputs", Place(in_body=self.is_body))
        faults += [*outputs.faults, *reference_faults(outputs, steps, inputs)]
        links = links_of(linked, _continues(document))
        faults += [*cycle_faults(links, steps), *orphan_faults(links, linked, outputs)]
        faults += graph_faults(linked, {step_id: link.needs for step_id, link in links.items()})
        if spec is None or faults:
            return _ordered(faults)
        return Validated(spec, build(links.values()))

    def _node_faults(
        self, draft: StepDraft, params: dict[str, JsonValue], node: NodeVersion, scan: Scan
    ) -> Iterator[Fault]:
        expressions = [one for one, _ in scan.found]
        bodies = list(body_faults(draft, node.manifest, self._body_faults))
        inside = body_paths(draft, node.manifest) + [one.path for one in bodies if one.code == NOT_LITERAL]
        for fault in parameter_faults(node.manifest, params, f"{draft.path}.with", expressions):
            # What stands in a body is read as steps, which says more.
            if not any(contains(path, fault.path) for path in inside):
                yield fault
        yield from control_faults(draft, node, expressions)
        yield from bodies
        for path, name in workflows_of(draft, node):
            yield from workflow_faults(name, path, self.known)

    def _body_faults(self, body: dict[str, JsonValue]) -> list[Fault]:
        found = _Check(body, self.registry, self.known, is_body=True).run()
        return found if isinstance(found, list) else []


def _inputs_faults(inputs: JsonValue) -> Iterator[Fault]:
    if isinstance(inputs, dict):
        try:
            check_schema(inputs)
        except SchemaError as error:
            yield Fault("$.inputs", "bad_schema", f"`inputs`: {error}")


def _continues(document: dict[str, JsonValue]) -> bool:
    policies = document.get("policies")
    return isinstance(policies, dict) and policies.get("on_error") == "continue"


def _resolve(draft: StepDraft, registry: NodeRegistry, faults: list[Fault]) -> NodeVersion | None:
    if draft.node is None:
        return None
    try:
        return registry.resolve(draft.node)
    except NodeNotFound as missing:
        faults.append(_unknown_node(draft.node, f"{draft.path}.node", registry, missing))
    return None


def _unknown_node(ref: str, path: str, registry: NodeRegistry, missing: NodeNotFound) -> Fault:
    name = ref.partition("@")[0]
    if missing.suggestion is not None and missing.suggestion.startswith(f"{name}@"):
        return Fault(path, "unknown_version", f"the node {missing.detail}", missing.suggestion)
    suggestion = nearest(name, registry.names())
    hint = did_you_mean(suggestion) or "; the catalogue of nodes lists what there is"
    return Fault(path, "unknown_node", f"there is no node `{shortened(name, 100)}`{hint}", suggestion)


def _ordered(faults: list[Fault]) -> list[Fault]:
    unique = dict.fromkeys(replace(fault, message=sentence(fault.message)) for fault in faults)
    return sorted(unique, key=_position)[:MAX_FAULTS]


def _position(fault: Fault) -> tuple[int, int]:
    step = _STEP_INDEX.match(fault.path)
    if step:
        return 1, int(step[1])
    return (2, 0) if fault.path.startswith("$.outputs") else (0, 0)
