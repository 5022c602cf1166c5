"""Runs, their steps and their events."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.models.shape import Page, Shape, left_out
from api.models.workflow import WorkflowSpec
from core.errors import ErrorClass
from core.run import EventType, RunStatus, StepStatus, WaitReason


class RunError(Shape):
    """Why a run, a step or an attempt failed."""

    class_: ErrorClass = Field(alias="class", description="The kind of failure.", examples=["upstream_5xx"])
    message: str = Field(examples=["the server answered 503"])
    step: str | None = Field(
        default_factory=left_out, description="The step that failed; null or absent when it was the run as a whole."
    )
    detail: Any = Field(default_factory=left_out, description="What else is known, such as `{status: 503}`.")
    fallback_run: uuid.UUID = Field(default_factory=left_out, description="The run that stands in for the failed one.")
    outcome_unknown: Literal[True] = Field(
        default_factory=left_out, description="There when the attempt may have had its effect in spite of the failure."
    )


class Elements(Shape):
    """How far a step with `foreach` is."""

    total: int
    finished: int


class WaitingFor(Shape):
    """Why a step does not go on at this moment."""

    reason: WaitReason
    until: datetime | None = Field(default_factory=left_out, description="When it goes on by itself at the latest.")
    detail: str = Field(default_factory=left_out, examples=["the route payment.charge has no arm that is healthy"])
    role: Literal["editor", "approver", "admin"] = Field(
        default_factory=left_out, description="The least role that may answer an approval or a form."
    )
    form: dict[str, Any] = Field(default_factory=left_out, description="JSON Schema of what is to be submitted.")
    plan: Any = Field(default_factory=left_out, description="The planned steps that are to be approved.")
    input: Any = Field(default_factory=left_out, description="At a breakpoint: the parameters that the step has.")
    item: int = Field(default_factory=left_out, ge=0, description="The element of a `foreach` that waits.")


class Child(Shape):
    """A run that a step has started, and waits for."""

    run_id: uuid.UUID
    index: int = Field(ge=0, description="Which of the step's runs it is.")
    status: RunStatus
    item: int = Field(default_factory=left_out, ge=0, description="The element, for a step with `foreach`.")


class ParentStep(Shape):
    """The step of another run that waits for this one."""

    run_id: uuid.UUID
    step_id: str | None = Field(description="Null when this run stands in for the other as a whole.")


class RunStep(Shape):
    """A step of a run."""

    id: str = Field(examples=["charge"])
    node_version: str = Field(
        description="The version that this run uses to its end; of a node with a route that of the arm that serves.",
        examples=["1.0.0"],
    )
    status: StepStatus
    attempts: int = Field(description="Attempts that have started, over all elements of a `foreach`.")
    started_at: datetime | None
    finished_at: datetime | None
    output: Any = Field(default_factory=left_out, description="There once the step is completed.")
    error: RunError = Field(default_factory=left_out, description="The last failure.")
    reason: str = Field(default_factory=left_out, description="Why the step was skipped or ended otherwise.")
    items: Elements = Field(default_factory=left_out, description="There for a step with `foreach`.")
    waiting_for: WaitingFor = Field(default_factory=left_out)
    arm: str = Field(default_factory=left_out, description="The arm of the node's route that serves the step.")
    cache_hit: Literal[True] = Field(default_factory=left_out, description="There when the result came from the cache.")
    children: list[Child] = Field(default_factory=left_out, description="Runs that the step has started.")


class RunSummary(Shape):
    """A run as lists show it."""

    id: uuid.UUID
    workflow_id: uuid.UUID
    workflow: str = Field(description="The workflow's name.", examples=["greet"])
    workflow_version: int = Field(examples=[1])
    status: RunStatus
    created_at: datetime
    finished_at: datetime | None = Field(description="Null until the run has ended.")
    created_by: str = Field(description="The name of the key that started it.", examples=["ci"])
    recoveries: int = Field(description="How often the run was taken up again after its server had gone.")
    error: RunError = Field(
        default_factory=left_out, description="There when the run has failed, also when a fallback stood in for it."
    )


class Run(RunSummary):
    """A run with its steps."""

    input: Any = Field(examples=[{"name": "Ada"}])
    outputs: Any = Field(description="Null until the run is completed.", examples=[{"text": "Hello Ada"}])
    context: dict[str, str] = Field(examples=[{"locale": "de"}])
    steps: list[RunStep]
    unit_key: str = Field(default_factory=left_out, description="What sticky decisions are made for.")
    cancel_reason: str = Field(default_factory=left_out, description="There once the run is told to cancel.")
    cost_usd: float = Field(description="What its attempts have cost so far.")
    paused: bool = Field(description="Nothing more starts until the run is resumed.")
    pause_reason: str = Field(default_factory=left_out)
    breakpoints: list[str] = Field(description="Steps to stop before.")
    restarted_from: uuid.UUID = Field(default_factory=left_out, description="The run that this one repeats.")
    parent: ParentStep = Field(default_factory=left_out, description="There when another run has started this one.")
    fallback_run: uuid.UUID = Field(
        default_factory=left_out, description="The run of the fallback workflow, which stands in for this one."
    )


class RunPage(Page[RunSummary]):
    """A page of runs."""


class Event(Shape):
    """A line of a run's journal."""

    seq: int = Field(ge=1, description="Position in the run, from 1 without gaps.")
    type: EventType
    at: datetime
    data: dict[str, Any] = Field(description="Facts of the event, by its type; a value it carries is under `output`.")
    step_id: str = Field(default_factory=left_out, description="There when the event is about a step.")
    item: int = Field(default_factory=left_out, ge=0, description="The element, for a step with `foreach`.")
    attempt: int = Field(default_factory=left_out, ge=1)


class EventPage(Shape):
    """A page of events."""

    items: list[Event]
    next_cursor: int | None = Field(description="The `cursor` of the next page; null at the end.")


class RunExport(Shape):
    """A whole run."""

    run: Run
    spec: WorkflowSpec
    events: list[Event]
