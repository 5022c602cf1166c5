"""Routes: which version of a node serves a step. Shape only; `engine.routing.check` knows what is right.

An *arm* is a version that a route may choose, with its share of the traffic and what surrounds a call of it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from core.duration import Duration
from core.spec import Retry

MAX_ARMS = 50
MAX_RULES = 50

VersionName = Annotated[str, Field(min_length=1, max_length=100)]
"""A version's number, or its label."""

Share = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
"""A part of 1, or of 100."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Part):
    """A version that may serve a step."""

    version: VersionName = Field(description="The version's number or label.", examples=["1.0.0"])
    weight: Share | None = Field(
        None, description="Share of the traffic. Shares sum to 1 or to 100; without any, all arms have the same."
    )
    fallback: VersionName | None = Field(None, description="The version that takes over when this one fails for good.")
    timeout: Duration | None = Field(None, gt=0, description="Longest time for one attempt on this arm.")
    retry: Retry | None = Field(None, description="How attempts on this arm are repeated, when the step does not say.")
    label: str | None = Field(None, max_length=100, description="The version's label; known by itself, not set here.")


class Rule(_Part):
    """Other weights for some of the calls. The first rule that holds counts."""

    when: str = Field(
        min_length=1,
        max_length=10_000,
        description="CEL over `input`, `context`, `features`, `hour` (UTC) and `weekday` (0 is Monday).",
        examples=["context.country == 'DE'"],
    )
    weights: dict[VersionName, Share] = Field(
        min_length=1, max_length=MAX_ARMS, description="Shares by version or label; who is not named has none."
    )


class Breaker(_Part):
    """When an arm is left alone for a while."""

    min_calls: int = Field(20, ge=1, le=100_000, description="Calls in the window before the breaker may open.")
    failure_rate: float = Field(0.5, gt=0, le=1, description="It opens when this share of the calls fails.")
    window: Duration = Field(60.0, ge=1, le=3600, description="How far back calls count.")
    cooldown: Duration = Field(30.0, gt=0, le=86_400, description="How long it stays open before one call probes.")
    max_cooldown: Duration = Field(600.0, gt=0, le=86_400, description="The cooldown doubles up to this.")


class Route(_Part):
    """How the calls of a node are spread over its versions."""

    arms: tuple[Arm, ...] = Field(min_length=1, max_length=MAX_ARMS)
    rules: tuple[Rule, ...] = Field((), max_length=MAX_RULES)
    goal: Literal["cost", "latency", "quality", "balanced"] | dict[str, float] = Field(
        "balanced", description="What changes of the weights aim at; or a weight for each metric."
    )
    breaker: Breaker | None = Field(None, description="For every arm; without it, arms are called however they fail.")
    floor: float = Field(0.0, ge=0, le=0.5, description="Smallest share of an arm whose weight is above 0.")
    timeout_jitter: float = Field(
        0.1, ge=0, le=0.5, description="Time-outs of arms are drawn up to this part longer, and recorded."
    )


@dataclass(frozen=True, slots=True)
class StoredRoute:
    """A revision of a node's route; `route` is None when that revision took the route away.

    Attributes:
        revision: counts from 1 for each node.
        reverted_to: the revision that this one repeats, for a revert.
    """

    workspace: str
    node: str
    revision: int
    route: Route | None
    created_at: datetime
    created_by: str
    reverted_to: int | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """An open breaker, as all processes share it.

    Attributes:
        cooldown: seconds from the opening to the first probe.
        remaining: seconds until a probe may be made, by the store's clock; 0 or less when one may be made now.
        until: the same as a time, for people.
        calls: how many counted when it opened, and `failures` of them failed.
    """

    workspace: str
    node: str
    version: str
    cooldown: float
    remaining: float
    until: datetime
    calls: int
    failures: int
