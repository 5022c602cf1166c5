"""Control nodes that start runs of their own: other workflows, or steps that are written inside the step."""

from math import floor
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints
from typing_extensions import TypedDict

from core.duration import Duration
from core.errors import ErrorClass, StepError
from core.json import JsonValue
from core.manifest import Effect
from engine.composition.body import Body, body_of
from engine.composition.foreach import MAX_ITEMS, ForEach
from engine.composition.loop import Loop
from engine.composition.parallel import Branch, Parallel
from engine.composition.subworkflow import SubWorkflow
from engine.node.sdk import Cel, Lane, node

MAX_BRANCHES = 100

WorkflowRef = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}(@[1-9][0-9]{0,8})?$")]
"""`name` for the current version when the child starts, `name@3` for that version."""

_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
_Object = dict[str, JsonValue]
_Steps = Annotated[list[dict[str, JsonValue]], Field(min_length=1)]
_STEP_FIELDS = ("steps", "outputs")
_ANY_OUTPUT: dict[str, Any] = {"description": "What the child run gives."}


class BranchParameters(TypedDict, total=False):
    """A workflow, or steps."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    workflow: WorkflowRef
    steps: _Steps
    outputs: _Object
    input: _Object


class MaxFailures(TypedDict):
    """How many items may fail: a whole number of them, or a share below 1."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    max_failures: Annotated[float, Field(ge=0, le=MAX_ITEMS)]


@node(
    "flow.subworkflow",
    version="1.0.0",
    effect=Effect.IDEMPOTENT,
    lane=Lane.COMPOSITE,
    category="flow",
    output_schema=_ANY_OUTPUT,
)
def subworkflow(
    workflow: WorkflowRef, input: _Object | None = None, context: dict[str, str] | None = None
) -> SubWorkflow:
    """Sub-workflow.

    Runs another workflow and waits for it. Its outputs are the step's output; when it fails, so does the step.

    Args:
        workflow: `name`, or `name@3` for a certain version.
        input: Its input.
        context: Its context; default: the run's own.
    """
    return SubWorkflow(Body(workflow=workflow), input or {}, context)


@node(
    "flow.parallel",
    version="1.0.0",
    effect=Effect.IDEMPOTENT,
    lane=Lane.COMPOSITE,
    category="flow",
    literal_fields=("branches.*.steps", "branches.*.outputs"),
    output_schema={"type": "object", "description": "The outputs of the completed branches by their names."},
)
def parallel(
    branches: Annotated[dict[_Name, BranchParameters], Field(min_length=1, max_length=MAX_BRANCHES)],
    mode: Literal["all", "any"] | Annotated[int, Field(strict=True, ge=1, le=MAX_BRANCHES)] = "all",
    on_error: Literal["fail", "continue"] = "fail",
) -> Parallel:
    """Parallel.

    Runs named branches at once, each as a run of its own. The output has the output of each completed branch under
    its name.

    Args:
        branches: By name: `{workflow, input}`, or `{steps, outputs, input}` with steps written here. Without
            `outputs` such a branch gives the output of each of its steps by id.
        mode: How many must complete: `all`, `any` (the first), or a number. Then the others are cancelled.
        on_error: `fail` as soon as too few can complete, or `continue` with those that do.
    """
    read = tuple(
        Branch(
            name,
            body_of(one.get("workflow"), one.get("steps"), one.get("outputs"), f"Branch `{name}`: "),
            one.get("input", {}),
        )
        for name, one in branches.items()
    )
    enough = {"all": len(read), "any": 1}[mode] if isinstance(mode, str) else mode
    if enough > len(read):
        message = f"`mode` asks for {enough} branches, but there are {len(read)}."
        raise StepError(ErrorClass.INVALID_INPUT, message, detail={"field": "mode"})
    return Parallel(read, enough, on_error == "continue")


@node(
    "flow.foreach",
    version="1.0.0",
    effect=Effect.IDEMPOTENT,
    lane=Lane.COMPOSITE,
    category="flow",
    literal_fields=_STEP_FIELDS,
    output_schema={
        "type": "object",
        "required": ["results", "succeeded", "failed", "errors"],
        "properties": {
            "results": {"type": "array", "description": "The output for each item; null where it failed."},
            "succeeded": {"type": "integer"},
            "failed": {"type": "integer"},
            "errors": {"type": "array", "description": "The first 100 failures: `{index, class, message}`."},
        },
    },
)
def foreach(
    items: Annotated[list[JsonValue], Field(max_length=MAX_ITEMS)],
    workflow: WorkflowRef | None = None,
    steps: _Steps | None = None,
    outputs: _Object | None = None,
    input: _Object | None = None,
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 10,
    on_item_error: Literal["fail", "continue"] | MaxFailures = "fail",
    retries: Annotated[int, Field(ge=0, le=100)] = 0,
) -> ForEach:
    """For each.

    Runs a workflow, or steps written here, for each item of a list, each as a run of its own.

    Args:
        items: The list.
        workflow: `name`, or `name@3` for a certain version.
        steps: Steps instead of a workflow; their expressions see the child's `input`.
        outputs: What `steps` give; default: the output of each of them by id.
        input: What each child gets besides `item` and `index`.
        concurrency: Items that run at once.
        on_item_error: `fail` at the first item that fails for good, `continue` however many do, or
            `{max_failures: 3}`, `{max_failures: 0.05}`: fail when more do, as a count or as a share of the items.
        retries: How often an item that failed is run again.
    """
    body = body_of(workflow, steps, outputs)
    return ForEach(items, body, input or {}, concurrency, _most_failures(on_item_error, len(items)), retries)


@node(
    "flow.loop",
    version="1.0.0",
    effect=Effect.IDEMPOTENT,
    lane=Lane.COMPOSITE,
    category="flow",
    literal_fields=_STEP_FIELDS,
    error_classes=(ErrorClass.POLICY, ErrorClass.EXPRESSION),
    output_schema={
        "type": "object",
        "required": ["iterations", "output", "exhausted"],
        "properties": {"iterations": {"type": "integer"}, "output": {}, "exhausted": {"type": "boolean"}},
    },
)
def loop(
    until: Annotated[
        str,
        Cel,
        StringConstraints(min_length=1, max_length=10_000),
        Field(json_schema_extra={"x-roots": ["output", "index", "input"]}),
    ],
    workflow: WorkflowRef | None = None,
    steps: _Steps | None = None,
    outputs: _Object | None = None,
    input: _Object | None = None,
    max_iterations: Annotated[int, Field(ge=1, le=10_000)] = 100,
    delay: Duration = 0.0,
    on_exhausted: Literal["fail", "continue"] = "fail",
) -> Loop:
    """Loop.

    Runs a workflow, or steps written here, again and again until a condition holds. Each child also gets
    `loop: {index, previous}`: its number from 0, and what the one before it gave.

    Args:
        until: CEL over `output` (what the child gave), `index` and `input` (as given here); must give true or false.
        workflow: `name`, or `name@3` for a certain version.
        steps: Steps instead of a workflow; their expressions see the child's `input`.
        outputs: What `steps` give; default: the output of each of them by id.
        input: What each child gets besides `loop`.
        max_iterations: The bound.
        delay: Time between two iterations.
        on_exhausted: `fail` when the bound is reached, or `continue` with the last output.
    """
    body = body_of(workflow, steps, outputs)
    return Loop(body, input or {}, until, max_iterations, delay, on_exhausted == "continue")


def _most_failures(policy: str | MaxFailures, size: int) -> int:
    if isinstance(policy, str):
        return 0 if policy == "fail" else size
    most = policy["max_failures"]
    # A little more, because 0.29 * 100 is less than 29.
    return floor(most * size + 1e-9) if most < 1 else floor(most)
