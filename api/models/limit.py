"""Limits, and how they are used."""

from typing import Literal

from pydantic import Field

from api.models.shape import Page, Shape


class RateView(Shape):
    """Calls in a time."""

    calls: int = Field(examples=[50])
    per: str = Field(examples=["1s"])
    burst: int = Field(description="Calls at once after a quiet time.")


class NodeLimitView(Shape):
    """The limit of a node over all workflows."""

    node: str = Field(examples=["http.request"])
    concurrency: int | None = Field(description="Calls at once; null for any number.")
    rate: RateView | None = Field(description="How often a call may start; null for any rate.")


class LimitUse(Shape):
    """A limit that somebody uses now."""

    scope: str = Field(description="Its name inside REFLUX.")
    kind: Literal["workflow", "step", "node"]
    workflow: str | None = Field(description="The workflow's name; null for a node.")
    workflow_id: str | None = Field(description="Null for a node.")
    step: str | None = Field(description="The step, when a step is limited.")
    node: str | None = Field(description="The node, when a node is limited.")
    keyed: bool = Field(description="It is one of many, by a key.")
    max: int | None = Field(description="Places; null when only the rate is limited.")
    rate: RateView | None
    in_use: int = Field(description="Places that are taken.")
    waiting: int = Field(description="How many wait for one.")


class LimitUsePage(Page[LimitUse]):
    """All limits in use, where most wait first; a list with a single page of at most 1000."""
