"""Changes of a run's graph while it is under way. They are said as operations, applied in order, all or none."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from core.spec import MAX_STEPS, NodeRef, StepName

MAX_OPERATIONS = 200
"""Operations in one patch."""


class _Operation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class AddStep(_Operation):
    """Put a step into the graph.

    Attributes:
        step: as in a spec; read when the whole document is validated, so that all its faults are found at once.
        before: steps that shall now need it, too.
    """

    op: Literal["add_step"] = "add_step"
    step: dict[str, Any] = Field(description="The step, as a workflow spec has it.")
    before: tuple[StepName, ...] = Field((), max_length=MAX_STEPS, description="Steps that shall now need it.")


class RemoveStep(_Operation):
    """Take a step out. Those that named it in `needs` do so no more."""

    op: Literal["remove_step"] = "remove_step"
    id: StepName


class UpdateParams(_Operation):
    """Change parameters of a step."""

    op: Literal["update_params"] = "update_params"
    id: StepName
    with_: dict[str, Any] = Field(
        alias="with", description="Added to the step's parameters, each in whole; null takes one away."
    )
    replace: bool = Field(False, description="`with` becomes all the parameters, nulls included.")


class ReplaceNode(_Operation):
    """Let another node do a step's work."""

    op: Literal["replace_node"] = "replace_node"
    id: StepName
    node: NodeRef
    with_: dict[str, Any] | None = Field(None, alias="with", description="All parameters; default: those it has.")


Operation = Annotated[AddStep | RemoveStep | UpdateParams | ReplaceNode, Field(discriminator="op")]

operation_adapter: TypeAdapter[Operation] = TypeAdapter(Operation)
"""Reads one operation."""
