"""What traces say in figures: reliability, failures, latency, cost and trends of a window.

Rates and shares are fractions (0 to 1), latencies milliseconds, costs US dollars. A figure that has no basis (the cost
per success of a node that never succeeded) is None.
"""

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Window(BaseModel):
    """A span of time, `start` inclusive, `end` exclusive; both aware."""

    model_config = ConfigDict(frozen=True)

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """How long the window is."""
        return self.end - self.start

    def previous(self) -> "Window":
        """The equally long window that ends where this one starts."""
        return Window(start=self.start - self.length, end=self.start)


class InsightFilter(BaseModel):
    """Whose traces, of when, and optionally of what; a workspace and a window are never left out."""

    model_config = ConfigDict(frozen=True)

    workspace: str
    window: Window
    node: str | None = None
    workflow: str | None = None


class Figures(BaseModel):
    """Base of the rows below: immutable, no stray fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reliability(Figures):
    """How attempts of a node ended and how long they took. Cancelled attempts count in `attempts` alone.

    `error_rate` is the share of errors and time-outs in the attempts that were not cancelled.
    """

    attempts: int
    ok: int
    errors: int
    timeouts: int
    error_rate: float | None
    p50_ms: float
    p95_ms: float


class ReliabilityBucket(Reliability):
    """One node in one bucket of time."""

    node: str
    bucket: datetime


class ReliabilityHour(Reliability):
    """One node in one hour of the day (UTC, 0 to 23), over all days of the window: a cell of the heat map."""

    node: str
    hour: int


class FailureGroup(Figures):
    """Failures that look the same: one fingerprint at one node.

    `share` is the part of all failures in the window; `sample_runs` names at most five runs, newest first.
    """

    fingerprint: str
    node: str
    error_class: str
    count: int
    share: float
    sample_message: str
    first_seen: datetime
    last_seen: datetime
    sample_runs: tuple[str, ...]


class LatencySplit(StrEnum):
    """By what else than the node latencies are told apart."""

    NODE = "node"
    VERSION = "version"
    ARM = "arm"


class Latency(Figures):
    """Latencies of the attempts that were not cancelled."""

    node: str
    node_version: str | None
    arm: str | None
    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


class LatencyBucket(Latency):
    """The same in one bucket of time."""

    bucket: datetime


class CostSplit(StrEnum):
    """By what costs are summed."""

    NODE = "node"
    ARM = "arm"
    WORKFLOW = "workflow"


class Cost(Figures):
    """What attempts cost. Fields that the split does not tell apart are None; `arm` comes with its node."""

    node: str | None
    arm: str | None
    workflow: str | None
    attempts: int
    successes: int
    total_usd: float
    per_attempt_usd: float
    per_success_usd: float | None
    tokens_in: int
    tokens_out: int


class TrendSide(Figures):
    """A node's figures in one window."""

    attempts: int
    error_rate: float | None
    p95_ms: float | None
    cost_per_success_usd: float | None


class Trend(Figures):
    """A node in this window and in the equal window before it; a side without attempts has no figures."""

    node: str
    current: TrendSide
    previous: TrendSide
