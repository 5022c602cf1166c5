"""Routes: how the calls of a node are spread over its versions."""

import uuid
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answer import instant, json_response, page
from api.auth import Editor, ServicesDep, Viewer
from api.body import read_model
from api.models.route import NewRoute, Revert, RouteModel, RoutePage
from api.paging import Cursor, Limit
from api.problem import responses
from api.replay import once
from api.request_body import request_body
from api.routes.nodes import Name
from api.services import Services
from core.account import Principal
from core.errors import Conflict, NotFound
from core.json import JsonValue
from core.route import Route, StoredRoute
from engine.routing.check import check_route
from engine.routing.choice import ArmState

router = APIRouter(prefix="/nodes/{name}/route", tags=["nodes"])

_EXAMPLE: JsonValue = {
    "arms": [{"version": "1.0.0", "weight": 90, "fallback": "2.0.0"}, {"version": "2.0.0", "weight": 10}],
    "breaker": {"min_calls": 20, "failure_rate": 0.5, "window": "1m", "cooldown": "30s"},
}


@router.get(
    "",
    responses={200: {"model": RouteModel, "description": "The route in force."}, **responses(404)},
    summary="A node's route, and the state of its breakers",
)
async def get_route(name: Name, principal: Viewer, services: ServicesDep) -> Response:
    services.registry.within(principal.workspace).versions(name)
    return json_response(_in_force(services, await services.stores.routes.get(principal.workspace, name)))


@router.put(
    "",
    responses={200: {"model": RouteModel, "description": "The route in force from now on."}, **responses(404, 409)},
    openapi_extra=request_body(NewRoute, _EXAMPLE),
    summary="Put a route in force, for the next step that starts",
)
async def put_route(name: Name, request: Request, principal: Editor, services: ServicesDep) -> Response:
    versions = services.registry.within(principal.workspace).versions(name)
    wanted = await read_model(request, NewRoute)
    given = Route.model_validate(wanted.model_dump(exclude_unset=True, exclude={"revision"}))
    route = check_route(given, versions)
    stored = await services.stores.routes.put(
        principal.workspace, name, route, principal.name, expected=wanted.revision
    )
    await _changed(services, principal, stored, "route.put")
    return json_response(_in_force(services, stored))


@router.delete("", status_code=204, responses=responses(404), summary="Take a node's route away")
async def delete_route(name: Name, principal: Editor, services: ServicesDep) -> Response:
    await services.stores.routes.get(principal.workspace, name)
    stored = await services.stores.routes.put(principal.workspace, name, None, principal.name)
    await _changed(services, principal, stored, "route.delete")
    return Response(status_code=204)


@router.get(
    "/revisions",
    responses={200: {"model": RoutePage, "description": "A page of revisions."}, **responses(404)},
    summary="All revisions of a node's route, newest first",
)
async def list_route_revisions(
    name: Name, principal: Viewer, services: ServicesDep, limit: Limit = 20, cursor: Cursor = None
) -> Response:
    services.registry.within(principal.workspace).versions(name)
    found = await services.stores.routes.revisions(principal.workspace, name, limit=limit, cursor=cursor)
    return page([_shown(one) for one in found.items], found.next_cursor)


@router.post(
    "/revert",
    responses={
        200: {"model": RouteModel, "description": "The route in force from now on, as a new revision."},
        **responses(404, 409),
    },
    openapi_extra=request_body(Revert, {"revision": 3}),
    summary="Put an earlier revision of a route in force again",
)
async def revert_route(name: Name, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, Revert, {})

    async def write(_: uuid.UUID | None) -> Response:
        return await _revert(name, wanted.revision, principal, services)

    return await once(request, services, principal, write)


async def _revert(name: str, revision: int | None, principal: Principal, services: Services) -> Response:
    present = await services.stores.routes.latest(principal.workspace, name)
    if present is None:
        raise NotFound(f"the node {name} has no route")
    if revision is None and present.revision == 1:
        raise Conflict(f"the route of {name} has no revision before this one")
    earlier = await services.stores.routes.get(principal.workspace, name, revision or present.revision - 1)
    registry = services.registry.within(principal.workspace)
    for arm in earlier.route.arms if earlier.route is not None else ():
        # Only what is gone stands in the way: a version that was deprecated since may be the way out.
        if not registry.has(name, arm.version):
            raise Conflict(f"revision {earlier.revision} needs the version {arm.version} of {name}, which is gone")
    stored = await services.stores.routes.put(
        principal.workspace,
        name,
        earlier.route,
        principal.name,
        expected=present.revision,
        reverted_to=earlier.revision,
    )
    await _changed(services, principal, stored, "route.revert")
    return json_response(_in_force(services, stored))


async def _changed(services: Services, principal: Principal, stored: StoredRoute, act: str) -> None:
    detail: dict[str, Any] = {"revision": stored.revision}
    if stored.route is not None:
        detail["weights"] = {arm.version: arm.weight for arm in stored.route.arms}
    if stored.reverted_to is not None:
        detail["reverted_to"] = stored.reverted_to
    await services.audit.append(principal.workspace, principal.name, act, stored.node, detail)
    # It counts here from now on; other processes follow.
    await services.router.reload()


def _in_force(services: Services, stored: StoredRoute) -> dict[str, Any]:
    """A route with its breakers."""
    shown = _shown(stored)
    states = {one.version: one for one in services.router.state(stored.workspace, stored.node) if one.state}
    for arm in shown["arms"]:
        if arm["version"] in states:
            arm["breaker"] = _breaker(states[arm["version"]])
    return shown


def _breaker(state: ArmState) -> dict[str, Any]:
    return {
        "state": str(state.state),
        "until": None if state.until is None else instant(state.until),
        "calls": state.calls,
        "failures": state.failures,
    }


def _shown(stored: StoredRoute) -> dict[str, Any]:
    route = stored.route
    shown: dict[str, Any] = {
        "node": stored.node,
        "revision": stored.revision,
        "arms": [],
        "rules": [],
        "goal": "balanced",
        "floor": 0.0,
        "timeout_jitter": 0.0,
        "created_at": instant(stored.created_at),
        "created_by": stored.created_by,
    }
    if route is not None:
        document = route.model_dump(mode="json", exclude_none=True)
        shown.update({key: document[key] for key in ("arms", "rules", "goal", "floor", "timeout_jitter")})
        if route.breaker is not None:
            shown["breaker"] = document["breaker"]
    if stored.reverted_to is not None:
        shown["reverted_to"] = stored.reverted_to
    return shown
