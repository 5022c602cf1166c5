"""Insights: the rows of `core.insight` in their window."""

from datetime import datetime

from pydantic import Field

from api.models.shape import Shape
from core.insight import (
    Cost,
    FailureGroup,
    Latency,
    LatencyBucket,
    ReliabilityBucket,
    ReliabilityHour,
    Trend,
)


class Windowed(Shape):
    """What is true of a window of time."""

    from_: datetime = Field(alias="from", description="Start of the window, inclusive.")
    to: datetime = Field(description="End of the window, exclusive.")


class ReliabilityInsight(Windowed):
    """How attempts end."""

    items: list[ReliabilityBucket]
    by_hour_of_day: list[ReliabilityHour] = Field(description="Over all days of the window, hours in UTC.")


class FailureInsight(Windowed):
    """Failures by what they look like, the most frequent first."""

    items: list[FailureGroup]


class LatencyInsight(Windowed):
    """Latencies of the window, and in its course."""

    items: list[Latency]
    series: list[LatencyBucket]


class CostInsight(Windowed):
    """What attempts cost, the dearest first."""

    items: list[Cost]


class TrendInsight(Windowed):
    """This window against the equal one before."""

    items: list[Trend]
