"""Routes as they are given and shown. What is given is `core.route`'s."""

from datetime import datetime

from pydantic import Field

from api.models.shape import Page, Shape, left_out
from core.duration import Duration
from core.route import Breaker, Route, Rule
from core.spec import Retry
from engine.routing.breaker import BreakerState


class NewRoute(Route):
    """A route to be put in force."""

    revision: int | None = Field(
        None,
        ge=0,
        description="The revision that the change was made from (0: none); refused when there is a newer one.",
    )


class Revert(Shape):
    """Which revision of a route shall be in force again."""

    revision: int | None = Field(None, ge=1, description="Default: the one before the present one.")


class ArmBreaker(Shape):
    """The breaker of an arm at this moment."""

    state: BreakerState
    until: datetime | None = Field(description="From when a probe may be made; null when it is closed.")
    calls: int = Field(description="In the window of this process; when it opened, if it is open.")
    failures: int = Field(description="Of the calls.")


class ArmModel(Shape):
    """A version that may serve a step."""

    version: str = Field(examples=["1.0.0"])
    label: str = Field(default_factory=left_out, examples=["stripe"])
    weight: float = Field(description="Share of the traffic; all sum to 1.", examples=[0.9])
    fallback: str = Field(default_factory=left_out, description="The version that takes over.")
    timeout: Duration = Field(default_factory=left_out)
    retry: Retry = Field(default_factory=left_out)
    breaker: ArmBreaker = Field(default_factory=left_out, description="In the route in force, when it has a breaker.")


class RouteModel(Shape):
    """A revision of a node's route."""

    node: str = Field(examples=["payment.charge"])
    revision: int = Field(description="Counts from 1 for each node.")
    arms: list[ArmModel] = Field(description="Empty in a revision that took the route away.")
    rules: list[Rule]
    goal: str | dict[str, float]
    breaker: Breaker = Field(default_factory=left_out)
    floor: float
    timeout_jitter: float
    created_at: datetime
    created_by: str
    reverted_to: int = Field(default_factory=left_out, description="The revision that this one repeats.")


class RoutePage(Page[RouteModel]):
    """Revisions, the newest first."""
