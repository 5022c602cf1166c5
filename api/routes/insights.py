"""Insights: what the traces of a window say in figures."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel
from starlette.responses import Response

from api.answer import instant, json_response
from api.auth import ServicesDep, Viewer
from api.models.insight import CostInsight, FailureInsight, LatencyInsight, ReliabilityInsight, TrendInsight
from api.paging import Instant
from api.problem import responses
from api.routes.traces import CATCH_UP_SECONDS
from core.errors import Fault, Invalid
from core.insight import CostSplit, Figures, InsightFilter, LatencySplit, Window

router = APIRouter(prefix="/insights", tags=["insights"])

_DEFAULT_WINDOW = timedelta(days=1)
_LONGEST_WINDOW = timedelta(days=3 * 366)


async def scope(
    principal: Viewer,
    services: ServicesDep,
    since: Annotated[Instant | None, Query(alias="from", description="Default: a day before `to`.")] = None,
    until: Annotated[Instant | None, Query(alias="to", description="Default: now.")] = None,
    node: Annotated[str | None, Query(max_length=200)] = None,
    workflow: Annotated[str | None, Query(max_length=200)] = None,
) -> InsightFilter:
    """Whose traces, and of when. Raises Invalid for a window that is none."""
    end = until or services.clock.now() + timedelta(seconds=1)
    start = since or end - _DEFAULT_WINDOW
    if not timedelta(0) < end - start <= _LONGEST_WINDOW:
        sentence = "`from` must be before `to`, by at most three years"
        raise Invalid(sentence, [Fault("$.query.from", "bad_window", sentence)])
    await services.shipper.caught_up(CATCH_UP_SECONDS)
    return InsightFilter(
        workspace=principal.workspace, window=Window(start=start, end=end), node=node, workflow=workflow
    )


Scope = Annotated[InsightFilter, Depends(scope)]
Bucket = Annotated[int | None, Query(ge=60, le=31 * 86_400, description="Width of a bucket in seconds.")]


@router.get(
    "/reliability",
    responses={200: {"model": ReliabilityInsight, "description": "Figures by node and bucket of time."}, **responses()},
    summary="How attempts end, by node and hour",
)
async def reliability(wanted: Scope, services: ServicesDep, bucket: Bucket = None) -> Response:
    width = timedelta(seconds=bucket) if bucket else None
    found = await services.insights.reliability(wanted, width)
    by_hour = await services.insights.reliability_by_hour(wanted)
    return json_response({**_window(wanted), "items": _dumped(found), "by_hour_of_day": _dumped(by_hour)})


@router.get(
    "/failures",
    responses={200: {"model": FailureInsight, "description": "Groups of equal failures."}, **responses()},
    summary="Failures by what they look like, the most frequent first",
)
async def failures(wanted: Scope, services: ServicesDep, limit: Annotated[int, Query(ge=1, le=1_000)] = 50) -> Response:
    return _answer(wanted, await services.insights.failures(wanted, limit))


@router.get(
    "/latency",
    responses={
        200: {"model": LatencyInsight, "description": "Latencies of the window, and in its course."},
        **responses(),
    },
    summary="Latencies by node, and over time",
)
async def latency(
    wanted: Scope, services: ServicesDep, by: LatencySplit = LatencySplit.NODE, bucket: Bucket = None
) -> Response:
    width = timedelta(seconds=bucket) if bucket else None
    found = await services.insights.latency(wanted, by)
    series = await services.insights.latency_series(wanted, by, width)
    return json_response({**_window(wanted), "items": _dumped(found), "series": _dumped(series)})


@router.get(
    "/cost",
    responses={200: {"model": CostInsight, "description": "Sums of the window."}, **responses()},
    summary="What attempts cost, the dearest first",
)
async def cost(wanted: Scope, services: ServicesDep, by: CostSplit = CostSplit.NODE) -> Response:
    return _answer(wanted, await services.insights.cost(wanted, by))


@router.get(
    "/trends",
    responses={200: {"model": TrendInsight, "description": "Both windows, by node."}, **responses()},
    summary="This window against the equal one before, by node",
)
async def trends(wanted: Scope, services: ServicesDep) -> Response:
    return _answer(wanted, await services.insights.trends(wanted))


def _answer(wanted: InsightFilter, found: Sequence[Figures]) -> Response:
    return json_response({**_window(wanted), "items": _dumped(found)})


def _window(wanted: InsightFilter) -> dict[str, str]:
    return {"from": instant(wanted.window.start), "to": instant(wanted.window.end)}


def _dumped(found: Sequence[BaseModel]) -> list[object]:
    return [one.model_dump(mode="json") for one in found]
