"""Workflows, their versions, and what is wrong with a spec."""

import uuid
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from api.models.shape import Page, Shape, left_out
from api.problem import FaultModel


class WorkflowSpec(BaseModel):
    """Stands for the spec: the document has the full schema of the same name in its place (`api.app`)."""


class WorkflowSummary(Shape):
    """A workflow as lists show it."""

    id: uuid.UUID
    name: str = Field(examples=["greet"])
    description: str
    version: int = Field(description="The version that is shown.", examples=[2])
    current_version: int = Field(description="The version that runs start with.", examples=[2])
    steps: int = Field(description="How many steps this version has.")
    created_at: datetime
    updated_at: datetime


class Workflow(WorkflowSummary):
    """A workflow at one of its versions."""

    spec: WorkflowSpec


class WorkflowPage(Page[WorkflowSummary]):
    """A page of workflows."""


class WorkflowVersion(Shape):
    """A line of a workflow's history."""

    version: int = Field(examples=[1])
    current: bool = Field(description="Whether runs start with this version.")
    created_at: datetime
    created_by: str = Field(examples=["ci"])
    spec_hash: str = Field(description="Equal specs have equal hashes.")


class WorkflowVersionPage(Page[WorkflowVersion]):
    """All versions of a workflow."""


class SpecFault(FaultModel):
    """One thing that is wrong with a spec."""

    model_config = ConfigDict(extra="forbid")
    suggestion: str = Field(default_factory=left_out, description="The nearest right name, where one exists.")


class Validation(Shape):
    """What a check of a spec has found."""

    valid: bool
    faults: list[SpecFault] = Field(description="All that is wrong; empty when the spec is valid.")
