"""Whether the service lives, whether it can serve, and its figures for Prometheus."""

from fastapi import APIRouter
from starlette.responses import Response

from api.answer import json_response
from api.auth import ServicesDep
from api.problem import responses
from core.errors import Unavailable

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process lives")
async def healthz() -> Response:
    return json_response({"status": "ok"})


@router.get("/readyz", responses={503: responses()[503]}, summary="The service accepts and runs workflows")
async def readyz(services: ServicesDep) -> Response:
    if not services.engine.ready:
        raise Unavailable("the engine is starting or stopping")
    await services.journal.ping()
    traces = "waiting in the journal: the trace store is away" if services.shipper.failing else "ok"
    return json_response({"status": "ok", "traces": traces, "active_runs": services.engine.active})


@router.get(
    "/metrics",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
    summary="Figures for Prometheus",
)
async def metrics(services: ServicesDep) -> Response:
    shipper = services.shipper
    body = services.metrics.render(services.engine.active, shipper.shipped, shipper.failing)
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
