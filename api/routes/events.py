"""Events: what happens outside, for the runs that wait for it and the triggers that start runs."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from api.answer import instant, json_response, page
from api.auth import Editor, ServicesDep, Viewer
from api.body import read_model
from api.models.event import EventReceipt, ReceivedEventPage
from api.paging import Cursor, Limit
from api.problem import responses
from api.replay import once
from api.request_body import request_body
from core.event import Event
from core.json import JsonValue
from core.trigger import TriggerName

router = APIRouter(prefix="/events", tags=["events"])


class SendEvent(BaseModel):
    """An event."""

    model_config = ConfigDict(extra="forbid")
    name: TriggerName = Field(examples=["order.paid"])
    payload: JsonValue = Field(
        None, description="What `match` and `input` see as `event`.", examples=[{"order_id": 17}]
    )
    dedupe_key: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="Events of one name with the same key within 24 hours are one event."
    )


@router.post(
    "",
    status_code=202,
    responses={202: {"model": EventReceipt, "description": "The event is stored."}, **responses(415)},
    openapi_extra=request_body(
        SendEvent, {"name": "order.paid", "payload": {"order_id": 17}, "dedupe_key": "order-17"}
    ),
    summary="Send an event: it wakes every run that waits for it, and starts what it triggers",
)
async def send_event(request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, SendEvent, {})

    async def write(reserved: uuid.UUID | None) -> Response:
        receipt = await services.triggers.event(
            principal.workspace, wanted.name, wanted.payload, wanted.dedupe_key, principal.name, reserved
        )
        return json_response(
            {
                "id": str(receipt.event.id),
                "name": receipt.event.name,
                "duplicate": receipt.duplicate,
                "started": [str(one) for one in receipt.started],
                "woken": receipt.woken,
            },
            202,
        )

    return await once(request, services, principal, write)


@router.get(
    "",
    responses={200: {"model": ReceivedEventPage, "description": "A page of events."}, **responses()},
    summary="List events, newest first",
)
async def list_events(
    principal: Viewer,
    services: ServicesDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    name: Annotated[str | None, Query(max_length=128, description="Events of this name.")] = None,
) -> Response:
    found = await services.stores.events.list(principal.workspace, name=name, limit=limit, cursor=cursor)
    return page([_event_json(one) for one in found.items], found.next_cursor)


def _event_json(event: Event) -> dict[str, Any]:
    return {
        "id": str(event.id),
        "name": event.name,
        "payload": event.payload,
        "dedupe_key": event.dedupe_key,
        "received_at": instant(event.received_at),
        "created_by": event.created_by,
    }
