"""The question which arm shall serve an attempt, and the answer as the journal keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from core.spec import Retry, StepRoute
from engine.routing.breaker import BreakerState


class ServedBy(StrEnum):
    """Why the arm that serves is the one that does. Only `drawn` attempts may be compared as if assigned."""

    DRAWN = "drawn"
    """It was drawn, and nothing stood against it."""
    FALLBACK = "fallback"
    """An arm before it failed for good."""
    BREAKER = "breaker"
    """The breaker of the arm that was drawn is open."""
    PROBE = "probe"
    """It is the one call that finds out whether the arm has recovered."""
    LEAST_BAD = "least_bad"
    """All breakers are open."""


@dataclass(frozen=True, slots=True)
class ArmKept:
    """The draw of an earlier attempt of the same task."""

    version: str
    probability: float
    revision: int


@dataclass(frozen=True, slots=True)
class ArmWanted:
    """An attempt that needs an arm.

    Attributes:
        within: the range that the step asks for, such as `^1`; empty for any version.
        unit: what keeps its arm: equal units are drawn alike.
        input: the resolved parameters, with secrets masked.
        features: of the input, by name.
        now: aware, in UTC.
        override: what the step says about its route.
        kept: the draw of an earlier attempt.
        failed: versions on which the task has failed for good, oldest first.
    """

    workspace: str
    node: str
    unit: str
    now: datetime
    within: str = ""
    input: JsonValue = None
    context: Mapping[str, JsonValue] = field(default_factory=dict)
    features: Mapping[str, JsonValue] = field(default_factory=dict)
    override: StepRoute | None = None
    kept: ArmKept | None = None
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ArmChoice:
    """Which arm serves an attempt, and why.

    Attributes:
        version: the version that serves, and `label` its label (empty without one).
        assigned: the version that was drawn, and `assigned_label` its label.
        probability: with which `assigned` was drawn.
        revision: of the route by which it was drawn.
        breaker: state of the serving arm's breaker at that moment; empty without one.
        timeout: seconds, drawn; None when the arm does not say.
        retry: None when the arm does not say.
        next_fallback: the version that takes over when this one fails for good.
    """

    version: str
    label: str
    assigned: str
    assigned_label: str
    probability: float
    revision: int
    served_by: ServedBy
    breaker: str = ""
    timeout: float | None = None
    retry: Retry | None = None
    next_fallback: str | None = None

    @property
    def arm(self) -> str:
        """The name of the serving arm in traces: its label, else its version."""
        return self.label or self.version

    @property
    def assigned_arm(self) -> str:
        """The name of the drawn arm in traces."""
        return self.assigned_label or self.assigned

    @property
    def kept(self) -> ArmKept:
        """What the next attempt of the task brings along."""
        return ArmKept(self.assigned, self.probability, self.revision)

    def trace(self) -> dict[str, Any]:
        """What a trace row says about it."""
        return {
            "arm": self.arm,
            "arm_probability": self.probability,
            "route_revision": self.revision,
            "assigned_arm": self.assigned_arm,
            "served_by": self.served_by.value,
            "breaker": self.breaker,
        }

    def to_json(self) -> dict[str, Any]:
        """For the journal; what says nothing is left out."""
        found: dict[str, Any] = {
            "version": self.version,
            "assigned": self.assigned,
            "probability": self.probability,
            "revision": self.revision,
            "served_by": self.served_by.value,
        }
        for name in ("label", "assigned_label", "breaker", "timeout", "next_fallback"):
            value = getattr(self, name)
            if value not in ("", None):
                found[name] = value
        if self.retry is not None:
            found["retry"] = self.retry.model_dump(mode="json", exclude_unset=True)
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ArmChoice":
        """What `to_json` wrote."""
        retry = value.get("retry")
        return cls(
            version=value["version"],
            label=value.get("label", ""),
            assigned=value["assigned"],
            assigned_label=value.get("assigned_label", ""),
            probability=value["probability"],
            revision=value["revision"],
            served_by=ServedBy(value["served_by"]),
            breaker=value.get("breaker", ""),
            timeout=value.get("timeout"),
            retry=None if retry is None else Retry.model_validate(retry),
            next_fallback=value.get("next_fallback"),
        )


class ArmsBusy(StepError):
    """No arm may be called now: every breaker is open, and another call is finding out about the least bad one.

    Whoever can wait asks again after `retry_after` seconds; for others it is a failure that may be retried.
    """

    def __init__(self, node: str, version: str, seconds: float) -> None:
        super().__init__(
            ErrorClass.UPSTREAM_5XX,
            f"all arms of {node} fail, so that their breakers are open; {version} is being tried",
            retry_after=seconds,
            detail={"breaker": BreakerState.OPEN.value, "arm": version},
        )


@dataclass(frozen=True, slots=True)
class ArmState:
    """An arm's breaker, for people.

    Attributes:
        state: empty when the route has no breaker.
        until: from when a probe may be made; None when it is closed.
        calls: in the window of this process; when it opened, if it is open.
    """

    version: str
    state: str
    until: datetime | None
    calls: int
    failures: int
