"""Steps that are written inside a step: a workflow of its own, with a scope of its own, and faults at their places."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from core.errors import Fault
from core.json import JsonValue
from core.manifest import NodeManifest
from engine.composition.body import body_document
from engine.composition.literal import literal_places
from engine.json_path import join
from engine.node.version import Lane, NodeVersion
from engine.validation.draft import StepDraft

NOT_LITERAL = "not_literal"
"""Code of an expression where something must be written out."""

_STEPS, _OUTPUTS = "steps", "outputs"


@dataclass(frozen=True, slots=True)
class BodyDraft:
    """What stands at `path` of a document: steps, a workflow's name, or wrongly both or none."""

    path: str
    content: dict[str, JsonValue]

    @property
    def workflow(self) -> str | None:
        """The workflow's name, when it is written out."""
        name = self.content.get("workflow")
        return name.partition("@")[0] if isinstance(name, str) and "{{" not in name else None

    @property
    def document(self) -> dict[str, Any] | None:
        """The steps as a workflow, when there are some."""
        steps = self.content.get(_STEPS)
        return body_document(steps, self.content.get(_OUTPUTS)) if isinstance(steps, list) else None


def bodies_of(draft: StepDraft, manifest: NodeManifest) -> Iterator[BodyDraft]:
    """The places of a step where a body may stand, according to the node's `literal_fields`."""
    params = draft.params or {}
    for field in manifest.literal_fields:
        *above, last = field.split(".")
        if last != _STEPS:
            continue
        for place in literal_places(params, [".".join(above)]) if above else [()]:
            content: JsonValue = params
            for key in place:
                content = content[key]
            if isinstance(content, dict):
                yield BodyDraft(join(f"{draft.path}.with", place), content)


def body_faults(
    draft: StepDraft, manifest: NodeManifest, check: Callable[[dict[str, Any]], list[Fault]]
) -> Iterator[Fault]:
    """Faults of all bodies of a step.

    Args:
        check: gives the faults of a document.
    """
    yield from _hidden(draft, manifest)
    for body in bodies_of(draft, manifest):
        yield from _choice_faults(body)
        document = body.document
        for fault in check(document) if document is not None else ():
            yield replace(fault, path=body.path + fault.path[1:])


def body_paths(draft: StepDraft, manifest: NodeManifest) -> list[str]:
    """Where steps and their outputs stand."""
    bodies = [body for body in bodies_of(draft, manifest) if body.document is not None]
    return [f"{body.path}.{name}" for body in bodies for name in (_STEPS, _OUTPUTS)]


def workflows_of(draft: StepDraft, node: NodeVersion) -> Iterator[tuple[str, str]]:
    """Names of workflows that a step starts, with the path of each, as far as they are written out."""
    if node.lane is not Lane.COMPOSITE:
        return
    bodies = list(bodies_of(draft, node.manifest)) or [BodyDraft(f"{draft.path}.with", draft.params or {})]
    for body in bodies:
        if body.workflow is not None:
            yield f"{body.path}.workflow", body.workflow


def _choice_faults(body: BodyDraft) -> Iterator[Fault]:
    given = [name for name in ("workflow", _STEPS) if body.content.get(name) is not None]
    if not given:
        said = "what shall run is missing; give either `workflow` or `steps`"
        yield Fault(f"{body.path}.workflow", "missing_parameter", said)
    elif len(given) == 2:
        yield Fault(f"{body.path}.{_STEPS}", "bad_value", "give either `workflow` or `steps`, not both")
    elif given == ["workflow"] and body.content.get(_OUTPUTS) is not None:
        said = "`outputs` belongs to `steps`; a workflow has outputs of its own"
        yield Fault(f"{body.path}.{_OUTPUTS}", "bad_value", said)


def _hidden(draft: StepDraft, manifest: NodeManifest) -> Iterator[Fault]:
    """Expressions that would give bodies: what a workflow does may not come from its data."""
    params = draft.params or {}
    above = {".".join(field.split(".")[:depth]) for field in manifest.literal_fields for depth in range(1, 5)}
    for place in dict.fromkeys(literal_places(params, sorted(above))):
        value: JsonValue = params
        for key in place:
            value = value[key]
        if isinstance(value, str) and "{{" in value:
            said = f"`{place[-1]}` must be written out, because it decides what the workflow does"
            yield Fault(join(f"{draft.path}.with", place), NOT_LITERAL, said)
