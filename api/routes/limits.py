"""Limits of nodes, and how all limits are used now."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from api.answer import json_response, page
from api.auth import Editor, ServicesDep, Viewer
from api.body import read_model
from api.models.limit import LimitUsePage, NodeLimitView
from api.problem import responses
from api.request_body import request_body
from core.duration import format_duration
from core.errors import Fault, Invalid
from core.limit import NodeLimit, ScopeUse
from core.spec import Rate
from engine.limits.scope import parsed

router = APIRouter(tags=["limits"])

Name = Annotated[str, Path(max_length=128, examples=["http.request"])]


class NodeLimitRequest(BaseModel):
    """How much of a node there may be, over all workflows; at least one of the two."""

    model_config = ConfigDict(extra="forbid")
    concurrency: int | None = Field(None, ge=1, le=100_000, description="Calls at once.", examples=[10])
    rate: Rate | None = Field(None, description="How often a call may start.")


@router.get(
    "/limits",
    responses={200: {"model": LimitUsePage, "description": "The limits that are in use."}, **responses()},
    summary="What is held and waited for now",
)
async def list_limits(principal: Viewer, services: ServicesDep) -> Response:
    return page([_use_json(one) for one in await services.stores.limits.uses(principal.workspace)], None)


@router.get(
    "/nodes/{name}/limits",
    responses={200: {"model": NodeLimitView, "description": "The node's limit."}, **responses(404)},
    summary="Read the limit of a node",
)
async def get_node_limit(name: Name, principal: Viewer, services: ServicesDep) -> Response:
    return json_response(_limit_json(await services.stores.limits.get(principal.workspace, name)))


@router.put(
    "/nodes/{name}/limits",
    responses={200: {"model": NodeLimitView, "description": "The limit is set."}, **responses(404)},
    openapi_extra=request_body(
        NodeLimitRequest, {"concurrency": 10, "rate": {"calls": 50, "per": "1s", "burst": 5}}, required=True
    ),
    summary="Limit a node over all workflows; whoever waits for it already is held to it, too",
)
async def put_node_limit(name: Name, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, NodeLimitRequest)
    if wanted.concurrency is None and wanted.rate is None:
        sentence = "say `concurrency`, `rate` or both; DELETE takes a limit away"
        raise Invalid(sentence, [Fault("$", "missing", sentence)])
    # NotFound: a limit for a name that is misspelt would limit nothing.
    services.registry.within(principal.workspace).versions(name)
    limit = NodeLimit(principal.workspace, name, wanted.concurrency, wanted.rate)
    await services.stores.limits.put(limit, principal.name)
    await services.node_limits.reload()
    shown = _limit_json(limit)
    await services.audit.append(principal.workspace, principal.name, "node_limit.put", name, shown)
    return json_response(shown)


@router.delete(
    "/nodes/{name}/limits",
    status_code=204,
    responses=responses(404),
    summary="Take the limit of a node away; whoever waits for it goes on",
)
async def delete_node_limit(name: Name, principal: Editor, services: ServicesDep) -> Response:
    await services.stores.limits.delete(principal.workspace, name)
    await services.node_limits.reload()
    await services.audit.append(principal.workspace, principal.name, "node_limit.delete", name, {})
    return Response(status_code=204)


def _limit_json(limit: NodeLimit) -> dict[str, Any]:
    return {"node": limit.node, "concurrency": limit.concurrency, "rate": _rate_json(limit.rate)}


def _rate_json(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    return {"calls": rate.calls, "per": format_duration(rate.per), "burst": rate.burst or 1}


def _use_json(use: ScopeUse) -> dict[str, Any]:
    one = parsed(use.scope)
    return {
        "scope": use.scope,
        "kind": one.kind,
        "workflow": use.workflow if one.workflow_id else None,
        "workflow_id": one.workflow_id or None,
        "step": one.name if one.kind == "step" else None,
        "node": one.name if one.kind == "node" else None,
        "keyed": one.keyed,
        "max": use.limit.max,
        "rate": _rate_json(use.limit.rate),
        "in_use": use.in_use,
        "waiting": use.waiting,
    }
