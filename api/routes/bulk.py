"""One action on many runs."""

import uuid

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answer import json_response
from api.auth import Editor, ServicesDep
from api.body import read_model
from api.bulk import act_on_each, derived_id, runs_of
from api.execution import answer
from api.models.operation import BulkAnswer, BulkRequest, RestartRequest
from api.operation import not_ended, stored_run, visible
from api.problem import responses
from api.replay import once
from api.request_body import request_body
from api.restart import prepare_restart, restart_run
from api.services import Services
from core.account import Principal
from core.command import Cancel, Pause, Resume
from core.ids import RunId
from core.json import JsonValue

router = APIRouter()
"""A part of `api.routes.operations`."""


@router.post(
    "/bulk",
    responses={200: {"model": BulkAnswer, "description": "What became of each run."}, **responses(404)},
    openapi_extra=request_body(
        BulkRequest, {"action": "restart", "filter": {"workflow": "charge", "from": "2026-11-01T00:00:00Z"}}
    ),
    summary="Cancel, pause, resume or restart up to 100 runs",
)
async def act_on_runs(request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, BulkRequest)

    async def write(reserved: uuid.UUID | None) -> Response:
        run_ids, next_cursor = await runs_of(services, principal, wanted)

        async def act(run_id: RunId) -> RunId | None:
            new = derived_id(reserved, run_id) if reserved else services.clock.new_id()
            return await _act(services, principal, run_id, wanted, new)

        return json_response({"items": await act_on_each(run_ids, act), "next_cursor": next_cursor})

    return await once(request, services, principal, write)


async def _act(
    services: Services, principal: Principal, run_id: RunId, wanted: BulkRequest, new: uuid.UUID
) -> RunId | None:
    """One action of a bulk request. The new run, when it is a restart."""
    detail: dict[str, JsonValue] = {"bulk": True, **({"reason": wanted.reason} if wanted.reason else {})}
    made: RunId | None = None
    if wanted.action == "restart":
        made = RunId(new)
        await visible(services, principal, run_id)
        if not (services.engine.actor(made) or await services.journal.load(made)):
            stored = await stored_run(services, principal, run_id)
            restart_run(services, principal, stored, await prepare_restart(services, stored, RestartRequest()), made)
        await answer(services, made, 0)  # once this returns it is durable
        detail["run_id"] = str(made)
    else:
        await not_ended(services, principal, run_id)
        command: Cancel | Pause | Resume
        match wanted.action:
            case "cancel":
                reason = wanted.reason or f"cancelled by {principal.name}"
                command = Cancel(id=new, by=principal.name, reason=reason)
            case "pause":
                command = Pause(id=new, by=principal.name, reason=wanted.reason)
            case _:
                command = Resume(id=new, by=principal.name)
        await services.engine.command(run_id, command)
    await services.audit.append(principal.workspace, principal.name, f"run.{wanted.action}", str(run_id), detail)
    return made
