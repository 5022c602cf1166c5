"""Triggers: list, make, pause, fire by hand, and what they fired."""

import uuid
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from api.answer import instant, json_response, page
from api.auth import Editor, ServicesDep, Viewer
from api.body import parse, read_json, read_model
from api.models.trigger import Firing as FiringShape
from api.models.trigger import FiringPage, Preview, TriggerPage
from api.models.trigger import Trigger as TriggerShape
from api.paging import Cursor, Limit
from api.problem import responses
from api.programs import find_workflow
from api.replay import once
from api.request_body import request_body
from core.errors import Conflict, Invalid
from core.firing import Firing, StoredTrigger
from core.json import JsonValue
from core.trigger import CronTrigger, EventTrigger, ManualTrigger, Trigger, WebhookTrigger
from engine.triggers.schedule import Schedule
from engine.validation.triggers import one_trigger_faults

router = APIRouter(prefix="/triggers", tags=["triggers"])

TriggerPath = Annotated[uuid.UUID, Path(description="The trigger's id.")]


_KINDS: dict[str, type[CronTrigger] | type[WebhookTrigger] | type[EventTrigger] | type[ManualTrigger]] = {
    "cron": CronTrigger,
    "webhook": WebhookTrigger,
    "event": EventTrigger,
    "manual": ManualTrigger,
}


class CreateTrigger(BaseModel):
    """A trigger as a spec has it, and the workflow that it is for."""

    model_config = ConfigDict(extra="allow")
    workflow: str = Field(min_length=1, max_length=200, description="The workflow's id or name.", examples=["greet"])
    type: Literal["cron", "webhook", "event", "manual"]


class FireRequest(BaseModel):
    """What a trigger is fired with."""

    model_config = ConfigDict(extra="forbid")
    input: JsonValue = Field(
        None, description="The run's input; for an event trigger the payload. Default: what the trigger says itself."
    )


_CREATE_BODY = request_body(
    CreateTrigger, {"workflow": "greet", "type": "cron", "schedule": "0 6 * * 1-5", "timezone": "Europe/Berlin"}
)
_FIRE_BODY = request_body(FireRequest, {"input": {"name": "Ada"}})


@router.post(
    "",
    status_code=201,
    responses={201: {"model": TriggerShape, "description": "The trigger."}, **responses(404, 409, 415)},
    openapi_extra=_CREATE_BODY,
    summary="Make a trigger beside the spec of its workflow",
)
async def create_trigger(request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, CreateTrigger, {})
    config = _config({**(wanted.model_extra or {}), "type": wanted.type})
    workflow = await find_workflow(services.workflows, principal.workspace, wanted.workflow)

    async def write(_: uuid.UUID | None) -> Response:
        made = await services.triggers.create(principal.workspace, workflow.id, config)
        await services.audit.append(
            principal.workspace, principal.name, "trigger.create", str(made.id), {"workflow": workflow.name}
        )
        return json_response(trigger_json(made), 201)

    return await once(request, services, principal, write)


@router.get(
    "",
    responses={200: {"model": TriggerPage, "description": "A page of triggers."}, **responses(404)},
    summary="List triggers, newest first",
)
async def list_triggers(
    principal: Viewer,
    services: ServicesDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    workflow: Annotated[str | None, Query(max_length=200, description="Id or name of a workflow.")] = None,
    type: Annotated[Literal["cron", "webhook", "event", "manual"] | None, Query(description="One kind only.")] = None,
) -> Response:
    workflow_id = None
    if workflow is not None:
        workflow_id = (await find_workflow(services.workflows, principal.workspace, workflow)).id
    found = await services.stores.triggers.list(
        principal.workspace, workflow_id=workflow_id, kind=type, limit=limit, cursor=cursor
    )
    return page([trigger_json(one) for one in found.items], found.next_cursor)


@router.get(
    "/{trigger_id}",
    responses={200: {"model": TriggerShape, "description": "The trigger."}, **responses(404)},
    summary="Read a trigger",
)
async def get_trigger(trigger_id: TriggerPath, principal: Viewer, services: ServicesDep) -> Response:
    return json_response(trigger_json(await services.stores.triggers.get(principal.workspace, trigger_id)))


@router.delete(
    "/{trigger_id}",
    status_code=204,
    responses=responses(404, 409),
    summary="Delete a trigger that does not stand in a spec",
)
async def delete_trigger(trigger_id: TriggerPath, principal: Editor, services: ServicesDep) -> Response:
    gone = await services.triggers.delete(principal.workspace, trigger_id)
    await services.audit.append(
        principal.workspace, principal.name, "trigger.delete", str(trigger_id), {"workflow": gone.workflow}
    )
    return Response(status_code=204)


@router.post(
    "/{trigger_id}/pause",
    responses={200: {"model": TriggerShape, "description": "The trigger, paused."}, **responses(404)},
    summary="Fire no more until resumed; a new version of the workflow does not change that",
)
async def pause_trigger(
    trigger_id: TriggerPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    async def write(_: uuid.UUID | None) -> Response:
        found = await services.triggers.set_paused(principal.workspace, trigger_id, True)
        await services.audit.append(principal.workspace, principal.name, "trigger.pause", str(trigger_id), {})
        return json_response(trigger_json(found))

    return await once(request, services, principal, write)


@router.post(
    "/{trigger_id}/resume",
    responses={200: {"model": TriggerShape, "description": "The trigger."}, **responses(404)},
    summary="Fire again; times that passed during the pause are not made up for",
)
async def resume_trigger(
    trigger_id: TriggerPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    async def write(_: uuid.UUID | None) -> Response:
        found = await services.triggers.set_paused(principal.workspace, trigger_id, False)
        await services.audit.append(principal.workspace, principal.name, "trigger.resume", str(trigger_id), {})
        return json_response(trigger_json(found))

    return await once(request, services, principal, write)


@router.post(
    "/{trigger_id}/fire",
    status_code=202,
    responses={202: {"model": FiringShape, "description": "The firing, with its run."}, **responses(404, 415)},
    openapi_extra=_FIRE_BODY,
    summary="Fire by hand, also when it is paused",
)
async def fire_trigger(trigger_id: TriggerPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    value = await read_json(request)
    wanted = FireRequest() if value is None else parse(FireRequest, value)
    trigger = await services.stores.triggers.get(principal.workspace, trigger_id)

    async def write(reserved: uuid.UUID | None) -> Response:
        fired = await services.triggers.fire(trigger, wanted.input, principal.name, reserved)
        await services.audit.append(
            principal.workspace, principal.name, "trigger.fire", str(trigger_id), {"run_id": str(fired.run_id)}
        )
        return json_response(firing_json(fired), 202)

    return await once(request, services, principal, write)


@router.get(
    "/{trigger_id}/firings",
    responses={200: {"model": FiringPage, "description": "A page of firings."}, **responses(404)},
    summary="What a trigger fired, newest first",
)
async def list_firings(
    trigger_id: TriggerPath, principal: Viewer, services: ServicesDep, limit: Limit = 20, cursor: Cursor = None
) -> Response:
    await services.stores.triggers.get(principal.workspace, trigger_id)
    found = await services.stores.firings.history(trigger_id, limit=limit, cursor=cursor)
    return page([firing_json(one) for one in found.items], found.next_cursor)


@router.get(
    "/{trigger_id}/preview",
    responses={200: {"model": Preview, "description": "The next times."}, **responses(404, 409)},
    summary="When a cron trigger will fire",
)
async def preview_trigger(
    trigger_id: TriggerPath,
    principal: Viewer,
    services: ServicesDep,
    count: Annotated[int, Query(ge=1, le=100, description="How many times.")] = 5,
) -> Response:
    trigger = await services.stores.triggers.get(principal.workspace, trigger_id)
    if not isinstance(trigger.config, CronTrigger):
        raise Conflict(f"a {trigger.config.type} trigger has no times; only a cron trigger has")
    times = Schedule(trigger.config.schedule, trigger.config.timezone).after(services.clock.now())
    shown = [instant(one) for one in islice(times, count)]
    return json_response({"times": shown, "timezone": trigger.config.timezone})


def _config(document: dict[str, Any]) -> Trigger:
    faults = [*one_trigger_faults(document, "$")]
    if faults:
        raise Invalid(f"the trigger is not right: {faults[0].message}", faults)
    return parse(_KINDS[document["type"]], document)


def trigger_json(trigger: StoredTrigger) -> dict[str, Any]:
    """A trigger as it goes over the wire."""
    shown: dict[str, Any] = {
        "id": str(trigger.id),
        "workflow_id": str(trigger.workflow_id),
        "workflow": trigger.workflow,
        "name": trigger.name,
        "type": trigger.config.type,
        "config": trigger.config.model_dump(mode="json", exclude_unset=True),
        "from_spec": trigger.from_spec,
        "paused": trigger.paused,
        "next_at": None if trigger.next_at is None else instant(trigger.next_at),
        "created_at": instant(trigger.created_at),
        "updated_at": instant(trigger.updated_at),
    }
    if isinstance(trigger.config, WebhookTrigger):
        shown["url"] = f"/webhooks/{trigger.config.path}"
    return shown


def firing_json(firing: Firing) -> dict[str, Any]:
    """A firing as it goes over the wire."""
    return {
        "id": str(firing.id),
        "at": instant(firing.at),
        "scheduled_for": None if firing.scheduled_for is None else instant(firing.scheduled_for),
        "status": firing.status.value,
        "run_id": None if firing.run_id is None else str(firing.run_id),
        "unit_key": firing.unit_key,
        "created_by": firing.created_by,
        "reason": firing.reason,
    }
