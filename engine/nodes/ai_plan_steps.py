"""From a model's answer to steps: what it says is data, and each step is checked like one of a person. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import Fault
from core.json import JsonError, JsonValue, decode
from core.patch import AddStep
from engine.expression.errors import ExpressionSyntaxError
from engine.json_schema import value_faults
from engine.node.registry import NodeRegistry
from engine.nodes.ai_plan_rename import rename_params, rename_value
from engine.references import needed_steps
from engine.validation import validate
from engine.validation.draft import StepDraft, read_steps
from engine.validation.expressions import scan_step

MAX_ID = 32
"""Characters of a step's id in a plan; with the planning step's in front it must still be an id."""

SEPARATOR = "__"
_STEP_ID = 64
_MAX_SUMMARY = 4_000


@dataclass(frozen=True, slots=True)
class PlanBounds:
    """What a plan may be made of.

    Attributes:
        allowed: references of nodes, as the plan has to write them.
        secrets: names of secrets that it may use.
        uses: steps of the workflow that it may refer to.
    """

    allowed: tuple[str, ...]
    max_steps: int
    secrets: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()

    def schema(self, packed: bool) -> dict[str, Any]:
        """The JSON Schema of a plan.

        Args:
            packed: parameters stand in a text, for providers that take objects with known members only.
        """
        params: dict[str, Any] = {"type": "object", "additionalProperties": True}
        if packed:
            params = {"type": "string", "description": "The parameters: a JSON object as text."}
        step = {
            "type": "object",
            "properties": {
                "id": {"type": "string", "pattern": rf"^[A-Za-z_][A-Za-z0-9_]{{0,{MAX_ID - 1}}}$"},
                "node": {"type": "string", "enum": list(self.allowed)},
                "with": params,
                "needs": {"type": "array", "items": {"type": "string"}},
                "when": {"type": "string", "description": "One expression in {{ }}; default: always."},
            },
            "required": ["id", "node", "with"],
            "additionalProperties": False,
        }
        return {
            "type": "object",
            "properties": {
                "steps": {"type": "array", "items": step, "minItems": 1, "maxItems": self.max_steps},
                "summary": {"type": "string", "maxLength": _MAX_SUMMARY},
            },
            "required": ["steps", "summary"],
            "additionalProperties": False,
        }


def read_plan(text: str, bounds: PlanBounds, registry: NodeRegistry) -> dict[str, Any] | list[Fault]:
    """The plan `{steps, summary}` in a model's answer, or all that is wrong with it."""
    try:
        plan = decode(text)
    except JsonError as error:
        return [Fault("$", "bad_value", f"The answer is {error}.")]
    _unpack(plan)
    faults = list(value_faults(bounds.schema(packed=False), plan, "$"))
    faults = faults or list(_meaning_faults(plan["steps"], bounds, registry))
    return faults or plan


def operations_of(plan_step: str, steps: Sequence[dict[str, Any]], registry: NodeRegistry) -> list[dict[str, Any]]:
    """The `add_step` operations of a plan without faults.

    Ids begin with the planning step's. What refers to no other step of the plan needs the planning step. `needs` says
    all links within the plan, so that its last steps are plain to see.

    Raises:
        ExpressionSyntaxError: an expression is too long with the final names in it.
    """
    names = {step["id"]: f"{plan_step}{SEPARATOR}{step['id']}" for step in steps}
    drafts = read_steps({"steps": list(steps)})
    return [_operation(plan_step, step, draft, names, registry) for step, draft in zip(steps, drafts, strict=True)]


def fits(plan_step: str) -> bool:
    """Whether ids of a plan can begin with this one."""
    return len(plan_step) + len(SEPARATOR) + MAX_ID <= _STEP_ID


def _unpack(plan: JsonValue) -> None:
    """Put parameters that came as a text into their place. What is no JSON stays, and is a fault of its type."""
    steps = plan.get("steps") if isinstance(plan, dict) else None
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and isinstance(step.get("with"), str):
            try:
                step["with"] = decode(step["with"])
            except JsonError:
                continue


def _meaning_faults(steps: list[dict[str, Any]], bounds: PlanBounds, registry: NodeRegistry) -> Iterator[Fault]:
    ids = {step["id"] for step in steps}
    for index, step in enumerate(steps):
        if step["id"] in bounds.uses:
            said = f"The workflow has a step `{step['id']}` already; take another id."
            yield Fault(f"$.steps[{index}].id", "duplicate_id", said)
    # The other steps of the workflow stand in for themselves; what they are is not this plan's concern.
    others = [{"id": one, "node": bounds.allowed[0]} for one in sorted(bounds.uses - ids)]
    document = {"name": "plan", "steps": [*steps, *others]}
    found = validate(document, registry)
    foreign = tuple(f"$.steps[{index}]" for index in range(len(steps), len(steps) + len(others)))
    for fault in found if isinstance(found, list) else ():
        # Each first step will need the planning step, so none stands alone.
        if fault.code != "orphan_step" and not fault.path.startswith(foreign):
            yield fault
    for draft in read_steps({"steps": steps}):
        yield from _secret_faults(draft, bounds, registry)
        try:
            rename_params(draft.params or {}, {}, _expression_fields(draft, registry))
            rename_value(draft.when, {})
        except ExpressionSyntaxError as error:
            yield Fault(draft.path, "bad_expression", f"Not a usable expression: {error.message}.")


def _secret_faults(draft: StepDraft, bounds: PlanBounds, registry: NodeRegistry) -> Iterator[Fault]:
    scan = scan_step(draft, registry.resolve(str(draft.node)).manifest)
    for expression, _ in scan.found:
        for reference in expression.references:
            if reference.root == "secrets" and (reference.path or ("",))[0] not in bounds.secrets:
                said = f"`{reference}` may not be used in this plan."
                yield Fault(expression.path, "secret_not_allowed", said)


def _operation(
    plan_step: str, step: dict[str, Any], draft: StepDraft, names: dict[str, str], registry: NodeRegistry
) -> dict[str, Any]:
    scan = scan_step(draft, registry.resolve(step["node"]).manifest)
    needs = dict.fromkeys([*step.get("needs", ()), *sorted(needed_steps(scan.references) & names.keys())])
    first = needs.keys().isdisjoint(names)
    wanted = [names.get(name, name) for name in needs]
    made: dict[str, Any] = {
        "id": names[step["id"]],
        "node": step["node"],
        "with": rename_params(step["with"], names, _expression_fields(draft, registry)),
        "needs": [*wanted, plan_step] if first else wanted,
    }
    if "when" in step:
        made["when"] = rename_value(step["when"], names)
    scanned = scan_step(read_steps({"steps": [made]})[0], registry.resolve(step["node"]).manifest)
    if scanned.faults:
        raise ExpressionSyntaxError(scanned.faults[0].message, str(step["id"]), 0)
    return AddStep(step=made).model_dump(mode="json", exclude={"before"})


def _expression_fields(draft: StepDraft, registry: NodeRegistry) -> tuple[str, ...]:
    return registry.resolve(str(draft.node)).manifest.expression_fields
