"""Changes a workflow's document as operations say, or says why that cannot be. Pure.

Only steps that have not started can change: what has happened stays as it happened. The changed document is
validated like a new one, with two differences. Steps whose node stays are read with the version that the run is pinned
to. And a step that lost its only neighbour may stand alone: it may have run already.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from core.errors import Fault
from core.json import JsonValue
from core.patch import AddStep, Operation, RemoveStep, ReplaceNode, UpdateParams
from core.spec import WorkflowSpec
from engine.graph import Graph
from engine.json_path import child, contains
from engine.node.registry import NodeNotFound, NodeRegistry
from engine.operations import read_operations
from engine.references import needed_steps
from engine.validation import validate
from engine.validation.check import MAX_FAULTS
from engine.validation.draft import StepDraft, read_steps
from engine.validation.expressions import Place, Scan, scan_step
from engine.wording import did_you_mean, nearest, sentence, shortened


@dataclass(frozen=True, slots=True)
class PatchResult:
    """A document that was changed, and what is different now. The ids are in the order of the document.

    Attributes:
        changed: steps that are there before and after, but differ.
        pins: node versions that stay, by step: those of steps whose node is the same as before.
    """

    document: dict[str, Any]
    spec: WorkflowSpec
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    pins: dict[str, str]


def patched(
    document: Mapping[str, Any],
    operations: Sequence[JsonValue],
    started: Collection[str],
    registry: NodeRegistry,
    pins: Mapping[str, str] | None = None,
) -> PatchResult | list[Fault]:
    """Apply operations in order, all or none.

    Args:
        document: the spec of the run, valid, as JSON; it is not touched.
        operations: as `core.patch` has them, as JSON.
        started: steps whose turn has come already, in whatever state they are now.
        pins: the run's node versions by step.

    Returns:
        the changed document, or all faults. A fault's path is `$.operations[…]` where it comes from an operation, else
        the place in the changed spec.
    """
    read, faults = read_operations(operations)
    if faults:
        return faults
    draft = _Draft(document, started)
    for index, operation in enumerate(read):
        draft.apply(f"$.operations[{index}]", operation)
    faults = draft.faults or list(draft.left_references(registry))
    if faults:
        return [replace(fault, message=sentence(fault.message)) for fault in faults[:MAX_FAULTS]]
    changed = draft.document
    kept = draft.kept(pins or {})
    faults = [
        draft.traced(fault)
        for fault in _validated(changed, kept, registry)
        if not (fault.code == "orphan_step" and draft.origin_of(fault.path) is None)
    ]
    if faults:
        return faults
    return _result(document, changed, kept)


def expansion(graph: Graph, step_id: str, operations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The operations of a plan, fitted into the graph of its run: what needs the planning step waits for the plan, too.

    Args:
        graph: the run's, before the expansion.
        step_id: the step that made the plan.
        operations: its `add_step` operations, which may need each other and the planning step.
    """
    added = {str(one["step"]["id"]) for one in operations}
    needed = {str(need) for one in operations for need in one["step"].get("needs", ())} & added
    waiting = [one for one in graph.order if step_id in graph.nodes[one].links.needs]
    return [
        dict(one) if one["step"]["id"] in needed else {**one, "before": [*one.get("before", ()), *waiting]}
        for one in operations
    ]


@dataclass(slots=True)
class _Draft:
    """The document on its way.

    Attributes:
        origins: by step, what of it (a path inside the step) was written by which part of an operation.
        removed: the operation that removed a step, by step.
    """

    source: Mapping[str, Any]
    started: Collection[str]
    steps: dict[str, dict[str, Any]] = field(init=False)
    origins: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = {step["id"]: step for step in self.source["steps"]}

    @property
    def document(self) -> dict[str, Any]:
        return {**self.source, "steps": list(self.steps.values())}

    def apply(self, path: str, operation: Operation) -> None:
        """Apply one operation, or note why it cannot be."""
        match operation:
            case AddStep():
                self._add(path, operation)
            case RemoveStep():
                self._remove(path, operation.id)
            case UpdateParams():
                self._update(path, operation)
            case ReplaceNode():
                self._replace(path, operation)

    def kept(self, pins: Mapping[str, str]) -> dict[str, str]:
        """The pins of steps that have the node that they had."""
        nodes = {step["id"]: step["node"] for step in self.source["steps"]}
        return {
            one: pins[one]
            for one, step in self.steps.items()
            if one in pins and one in nodes and step.get("node") == nodes[one]
        }

    def left_references(self, registry: NodeRegistry) -> Iterator[Fault]:
        """Uses of steps that the patch has removed for good."""
        gone = {one: path for one, path in self.removed.items() if one not in self.steps}
        if not gone:
            return
        for draft in read_steps(self.document):
            used = needed_steps(scan_step(draft, _manifest(draft, registry)).references)
            for one in sorted(gone.keys() & used):
                yield _in_use(gone[one], one, f"an expression of the step `{draft.id}`")
            if draft.fallback in gone:
                yield _in_use(gone[draft.fallback], draft.fallback, f"`on_error` of the step `{draft.id}`")
        outputs = Scan()
        outputs.template(self.source.get("outputs", {}), "$.outputs", Place())
        for one in sorted(gone.keys() & needed_steps(outputs.references)):
            yield _in_use(gone[one], one, "`outputs`")

    def origin_of(self, path: str) -> str | None:
        """The part of an operation that wrote what stands at a path of the changed document."""
        for index, step_id in enumerate(self.steps):
            root = f"$.steps[{index}]"
            if not contains(root, path):
                continue
            inside = "$" + path[len(root) :]
            # The last to write wins, and the more exact of what it wrote.
            for written, operation in reversed(self.origins.get(step_id, [])):
                if contains(written, inside):
                    return operation + inside[len(written) :]
        return None

    def traced(self, fault: Fault) -> Fault:
        """The fault at the place of its cause."""
        path = self.origin_of(fault.path)
        return fault if path is None else replace(fault, path=path)

    def _add(self, path: str, operation: AddStep) -> None:
        step_id = operation.step.get("id")
        if not isinstance(step_id, str):
            self._fault(f"{path}.step.id", "missing_field", "the step needs an `id`, which is a text")
            return
        if step_id in self.steps:
            said = f"the id `{shortened(step_id, 64)}` is taken already; ids are unique in a workflow"
            self._fault(f"{path}.step.id", "duplicate_id", said)
            return
        fallback = operation.step.get("on_error")
        if isinstance(fallback, dict) and fallback.get("use") in self.started:
            self._has_started(f"{path}.step.on_error.use", str(fallback["use"]))
        self.steps[step_id] = dict(operation.step)
        self.origins[step_id] = [("$", f"{path}.step")]
        for index, other in enumerate(dict.fromkeys(operation.before)):
            self._need(f"{path}.before[{index}]", other, step_id)

    def _need(self, path: str, step_id: str, needed: str) -> None:
        step = self._open(path, step_id)
        if step is None or not isinstance(step.get("needs", []), list):
            return  # what has the wrong shape is reported by the validation of the whole
        needs = _listed_needs(step)
        if needed not in needs:
            self.steps[step_id] = {**step, "needs": [*needs, needed]}
            self.origins.setdefault(step_id, []).append((f"$.needs[{len(needs)}]", path))

    def _remove(self, path: str, step_id: str) -> None:
        if self._open(f"{path}.id", step_id) is None:
            return
        del self.steps[step_id]
        self.removed[step_id] = f"{path}.id"
        for other, step in list(self.steps.items()):
            if step_id not in _listed_needs(step):
                continue
            if other in self.started:
                self._has_started(f"{path}.id", other)
            self.steps[other] = {**step, "needs": [one for one in step["needs"] if one != step_id]}

    def _update(self, path: str, operation: UpdateParams) -> None:
        step = self._open(f"{path}.id", operation.id)
        if step is None:
            return
        params = step.get("with", {})
        given = operation.with_
        if operation.replace or not isinstance(params, dict):
            merged = dict(given)
        else:
            merged = {name: one for name, one in {**params, **given}.items() if name not in given or one is not None}
        self.steps[operation.id] = {**step, "with": merged}
        written = [(child("$.with", name), child(f"{path}.with", name)) for name in given]
        # What is missing now is missing because of this operation.
        self.origins.setdefault(operation.id, []).extend([("$.with", f"{path}.with"), *written])

    def _replace(self, path: str, operation: ReplaceNode) -> None:
        step = self._open(f"{path}.id", operation.id)
        if step is None:
            return
        changed = {**step, "node": operation.node}
        written = [("$", path)]
        if operation.with_ is not None:
            changed["with"] = operation.with_
        else:
            written.append(("$.with", f"{path}.node"))
        self.steps[operation.id] = changed
        self.origins.setdefault(operation.id, []).extend(written)

    def _open(self, path: str, step_id: str) -> dict[str, Any] | None:
        """The step, if there is one that has not started."""
        if step_id in self.started and step_id in self.steps:
            self._has_started(path, step_id)
            return None
        if step_id not in self.steps:
            suggestion = nearest(step_id, self.steps)
            self._fault(path, "unknown_step", f"there is no step `{step_id}`{did_you_mean(suggestion)}", suggestion)
        return self.steps.get(step_id)

    def _has_started(self, path: str, step_id: str) -> None:
        self._fault(path, "step_started", f"the step `{step_id}` has started, so it cannot change any more")

    def _fault(self, path: str, code: str, message: str, suggestion: str | None = None) -> None:
        self.faults.append(Fault(path, code, message, suggestion))


def _listed_needs(step: Mapping[str, Any]) -> list[Any]:
    needs = step.get("needs")
    return needs if isinstance(needs, list) else []


def _in_use(path: str, step_id: str, user: str) -> Fault:
    said = f"the step `{step_id}` cannot be removed: {user} refers to it; change that first"
    return Fault(path, "step_in_use", said)


def _manifest(draft: StepDraft, registry: NodeRegistry) -> Any:
    try:
        return registry.resolve(draft.node).manifest if draft.node else None
    except NodeNotFound:
        return None


def _validated(document: Mapping[str, Any], kept: Mapping[str, str], registry: NodeRegistry) -> list[Fault]:
    """Faults of the document, with the versions that the run uses already."""
    steps = [
        {**step, "node": f"{step['node'].partition('@')[0]}@{kept[step['id']]}"} if step["id"] in kept else step
        for step in document["steps"]
    ]
    found = validate({**document, "steps": steps}, registry)
    return found if isinstance(found, list) else []


def _result(before: Mapping[str, Any], after: dict[str, Any], pins: dict[str, str]) -> PatchResult:
    old = {step["id"]: step for step in before["steps"]}
    new = {step["id"]: step for step in after["steps"]}
    return PatchResult(
        document=after,
        spec=WorkflowSpec.model_validate(after),
        added=tuple(one for one in new if one not in old),
        removed=tuple(one for one in old if one not in new),
        changed=tuple(one for one in new if one in old and new[one] != old[one]),
        pins=pins,
    )
