"""What people may ask of a run that is there already, and what they are told."""

import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.models.shape import Shape, left_out
from api.paging import Instant
from core.json import JsonValue
from core.patch import MAX_OPERATIONS
from core.run import NO_ITEM, RunStatus
from core.spec import MAX_STEPS, StepName

MAX_BULK = 100
"""Runs of one bulk request."""

Reason = Annotated[str, StringConstraints(max_length=1_000, pattern=r"^[^\x00]*$")]
Comment = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]
Item = Annotated[int, Field(ge=NO_ITEM, le=1_000_000, description="The element, for a step with `foreach`.")]
Params = Annotated[dict[str, JsonValue] | None, Field(description="Parameters to replace, for this run only.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class CancelRequest(_Request):
    """Why a run is cancelled."""

    reason: Reason = Field("", examples=["the customer withdrew the order"])


class PauseRequest(_Request):
    """Why a run is paused."""

    reason: Reason = Field("", examples=["the provider has an outage"])


class ResumeRequest(_Request):
    """Nothing is needed to resume a run."""


class ResolveRequest(_Request):
    """What became of an attempt whose outcome nobody recorded."""

    outcome: Literal["succeeded", "failed", "retry"]
    output: JsonValue = Field(None, description="The step's output, when it succeeded.")
    item: Item = NO_ITEM


class RestartRequest(_Request):
    """A new run like one that was there before."""

    input: JsonValue = Field(None, description="Default: that of the other run.")
    from_step: StepName | None = Field(
        None, description="Results of all steps that do not depend on this one are taken over."
    )
    version: Literal["same", "current"] = Field("same", description="Which version of the workflow runs.")


class RedriveRequest(_Request):
    """Run a step again."""

    downstream: bool = Field(True, description="With all steps that depend on it.")
    with_: Params = Field(None, alias="with")


class SignalRequest(_Request):
    """What the run is told."""

    payload: JsonValue = Field(None, examples=[{"paid": True}])


class GraphRequest(_Request):
    """Changes of the graph, applied in order, all or none."""

    operations: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_OPERATIONS,
        description=(
            "`{op: add_step, step, before?}`, `{op: remove_step, id}`, `{op: update_params, id, with, replace?}` or "
            "`{op: replace_node, id, node, with?}`."
        ),
    )


class BreakpointsRequest(_Request):
    """The steps to stop before, instead of those that there are."""

    steps: list[StepName] = Field(max_length=MAX_STEPS)


class ContinueRequest(_Request):
    """How to go on from a breakpoint."""

    mode: Literal["continue", "step"] = Field("continue", description="`step` stops again before what starts next.")


class StepContinueRequest(ContinueRequest):
    """How one step goes on from its breakpoint."""

    with_: Params = Field(None, alias="with")


class DecideRequest(_Request):
    """An answer to a step that waits for an approval."""

    comment: Comment = Field("", examples=["the customer is known"])
    payload: JsonValue = None
    item: Item = NO_ITEM


class SubmitRequest(_Request):
    """What was filled into a form."""

    payload: JsonValue = Field(description="Must fit the form's schema.")
    item: Item = NO_ITEM


class BulkFilter(_Request):
    """Which runs are meant: the newest that fit, as in the list of runs."""

    workflow: str | None = Field(None, max_length=200, description="Id or name of a workflow.")
    status: list[RunStatus] | None = Field(None, description="Default: those that the action makes sense for.")
    since: Instant | None = Field(None, alias="from", description="Created at or after.")
    until: Instant | None = Field(None, alias="to", description="Created before.")
    search: str | None = Field(None, max_length=200, description="Part of the workflow's name, or an id.")
    cursor: str | None = Field(None, max_length=500, description="`next_cursor` of the request before.")


class BulkRequest(_Request):
    """One action on many runs: those of `run_ids`, or those of `filter`."""

    action: Literal["cancel", "pause", "resume", "restart"]
    run_ids: list[uuid.UUID] | None = Field(None, min_length=1, max_length=MAX_BULK)
    filter: BulkFilter | None = None
    reason: Reason = ""


class BulkProblem(Shape):
    """Why nothing was done to a run."""

    status: int = Field(description="As if the run had been asked alone.", examples=[409])
    title: str = Field(examples=["Conflict"])
    detail: str = Field(examples=["the run has ended already: it is completed"])


class BulkOutcome(Shape):
    """What became of one run."""

    run_id: uuid.UUID
    ok: bool
    restarted_as: uuid.UUID = Field(default_factory=left_out, description="The new run, after `restart`.")
    error: BulkProblem = Field(default_factory=left_out, description="There when it is not `ok`.")


class BulkAnswer(Shape):
    """What became of each run."""

    items: list[BulkOutcome]
    next_cursor: str | None = Field(description="The filter's `cursor` for the runs that are left; null when none are.")
