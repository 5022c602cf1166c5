"""Attempts, and what became of an import of some."""

import uuid
from datetime import datetime

from pydantic import Field

from api.models.shape import Page, Shape, left_out
from core.trace import TraceStatus


class Trace(Shape):
    """One attempt of a step."""

    attempt_id: uuid.UUID
    run_id: str = Field(description="A run of this service, or whatever an import brought.", examples=["order-17"])
    workflow: str
    workflow_version: int
    step_id: str = Field(examples=["charge"])
    attempt: int = Field(description="1 for the first.", examples=[1])
    node: str = Field(examples=["http.request"])
    node_version: str = Field(examples=["1.0.0"])
    status: TraceStatus
    start: datetime
    latency_ms: float = Field(examples=[812.5])
    queue_ms: float = Field(description="How long the attempt was ready before it started.")
    arm: str = Field(description="Which alternative of the node's route served the attempt; may be empty.")
    arm_probability: float = Field(description="With which probability `assigned_arm` was drawn.")
    route_revision: int
    cache_hit: bool
    inputs_hash: str = Field(description="Equal inputs have equal hashes.")
    cost_usd: float
    tokens_in: int
    tokens_out: int
    metrics: dict[str, float] = Field(description="Figures that the node reports about itself.")
    features: dict[str, float | str] = Field(
        description="What the input looks like.", examples=[{"amount": 1200, "currency": "EUR"}]
    )
    context: dict[str, str] = Field(examples=[{"locale": "de"}])
    item: int = Field(default_factory=left_out, description="The element, for a step with `foreach`.")
    error_class: str = Field(default_factory=left_out, examples=["upstream_5xx"])
    error_message: str = Field(default_factory=left_out, description="There with `error_class`.")
    error_fingerprint: str = Field(
        default_factory=left_out, description="Failures that look the same have the same; there with `error_class`."
    )
    assigned_arm: str = Field(default_factory=left_out, description="Which alternative the route drew.")
    served_by: str = Field(
        default_factory=left_out,
        description="Why `arm` served: drawn, fallback, breaker, probe, least_bad. There with `assigned_arm`.",
    )
    breaker: str = Field(
        default_factory=left_out, description="State of the arm's breaker when the attempt began, if it has one."
    )
    rollout: str = Field(default_factory=left_out, description="The rollout that the attempt was part of.")
    stage: str = Field(default_factory=left_out, description="The stage of that rollout.")


class TracePage(Page[Trace]):
    """A page of attempts."""


class ImportFault(Shape):
    """A row that was not taken."""

    line: int = Field(description="Which row: of NDJSON the line, of an array the element, both from 1.")
    field: str = Field(description="The field that is wrong; empty when it is the row as a whole.")
    reason: str


class ImportReport(Shape):
    """What became of an import's rows."""

    inserted: int
    duplicates: int = Field(description="Rows that were there already.")
    rejected: int
    faults: list[ImportFault] = Field(description="Why rows were rejected; at most the first 100.")
