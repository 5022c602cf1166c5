"""Whether the service lives, whether it can serve, and its figures for Prometheus."""

from typing import Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from api.answer import json_response
from api.auth import ServicesDep
from api.models.shape import Shape
from api.problem import responses
from core.errors import Unavailable
from infra.metrics import Figures

router = APIRouter(tags=["health"])


class Alive(Shape):
    """The process lives."""

    status: Literal["ok"]


class Ready(Alive):
    """The service accepts and runs workflows."""

    traces: str = Field(description="`ok`, or why attempts do not reach the trace store at this moment.")
    active_runs: int


@router.get("/healthz", responses={200: {"model": Alive, "description": "It lives."}}, summary="The process lives")
async def healthz() -> Response:
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    responses={200: {"model": Ready, "description": "It is ready."}, 503: responses()[503]},
    summary="The service accepts and runs workflows",
)
async def readyz(services: ServicesDep) -> Response:
    if not services.engine.ready:
        raise Unavailable("the engine is starting or stopping")
    await services.journal.ping()
    traces = "waiting in the journal: the trace store is away" if services.shipper.failing else "ok"
    return json_response({"status": "ok", "traces": traces, "active_runs": services.engine.active})


@router.get(
    "/metrics",
    responses={200: {"description": "The figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
    summary="Figures for Prometheus",
)
async def metrics(services: ServicesDep) -> Response:
    groups = await services.stores.workers.figures() if services.settings.broker_url is not None else []
    figures = Figures(
        active_runs=services.engine.active,
        traces_shipped=services.shipper.shipped,
        traces_failing=services.shipper.failing,
        waiting_runs=services.engine.waiting_for_events,
        waiting_for_limits=services.limiter.waiting,
        cache_hits=services.step_cache.hits,
        cache_misses=services.step_cache.misses,
        groups=[(one.group, one.queued, one.running, one.workers) for one in groups],
    )
    body = services.metrics.render(figures)
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
