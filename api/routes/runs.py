"""Runs: list, read, watch, export, cancel."""

import asyncio
import csv
import io
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from api.answer import json_response, page
from api.auth import Editor, ServicesDep, Viewer
from api.body import read_model
from api.execution import answer
from api.models.run import EventPage, Run, RunExport, RunPage
from api.paging import Cursor, Instant, Limit
from api.problem import BadRequest, responses
from api.programs import find_workflow
from api.run_view import event_json, run_json, summary_json
from api.wiring import Services
from core.account import Principal
from core.errors import Conflict, NotFound
from core.ids import RunId, Workspace
from core.journal import StoredRun
from core.json import JsonValue
from core.run import NO_ITEM, RunEvent, RunStatus
from engine.history import state_of
from infra.postgres.runs import RunFilter

router = APIRouter(prefix="/runs", tags=["runs"])

RunPath = Annotated[uuid.UUID, Path(description="The run's id.")]
_STREAM_BATCH = 100
_STREAM_POLL_SECONDS = 1.0


class CancelRequest(BaseModel):
    """Why a run is cancelled."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field("", max_length=1_000, examples=["the customer withdrew the order"])


class ResolveRequest(BaseModel):
    """What became of an attempt whose outcome nobody recorded."""

    model_config = ConfigDict(extra="forbid")
    outcome: Literal["succeeded", "failed", "retry"]
    output: JsonValue = Field(None, description="The step's output, when it succeeded.")
    item: int = Field(NO_ITEM, ge=NO_ITEM, le=1_000_000, description="The element, for a step with `foreach`.")


@router.get(
    "",
    responses={200: {"model": RunPage, "description": "A page of runs."}, **responses(404)},
    summary="List runs, newest first",
)
async def list_runs(
    principal: Viewer,
    services: ServicesDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    workflow: Annotated[str | None, Query(max_length=200, description="Id or name of a workflow.")] = None,
    status: Annotated[list[RunStatus] | None, Query(description="One or more statuses.")] = None,
    since: Annotated[Instant | None, Query(alias="from", description="Created at or after.")] = None,
    until: Annotated[Instant | None, Query(alias="to", description="Created before.")] = None,
    search: Annotated[str | None, Query(max_length=200, description="Part of the workflow's name, or an id.")] = None,
) -> Response:
    workflow_id = None
    if workflow is not None:
        workflow_id = (await find_workflow(services.workflows, principal.workspace, workflow)).id
    wanted = RunFilter(workflow_id, tuple(status or ()), since, until, search)
    found = await services.runs.list(principal.workspace, wanted, limit=limit, cursor=cursor)
    return page([summary_json(one) for one in found.items], found.next_cursor)


@router.get(
    "/{run_id}",
    responses={200: {"model": Run, "description": "The run."}, **responses(404)},
    summary="Read a run with its steps",
)
async def get_run(run_id: RunPath, principal: Viewer, services: ServicesDep) -> Response:
    return json_response(run_json(state_of(await _stored(services, principal, run_id))))


@router.get(
    "/{run_id}/events",
    responses={200: {"model": EventPage, "description": "A page of events."}, **responses(404)},
    summary="The run's journal, oldest first",
)
async def list_events(
    run_id: RunPath,
    principal: Viewer,
    services: ServicesDep,
    limit: Limit = 100,
    cursor: Annotated[int, Query(ge=0, le=2**31 - 1, description="`next_cursor` of the page before.")] = 0,
) -> Response:
    await _visible(services, principal, run_id)
    events = await services.journal.events(run_id, cursor, limit + 1)
    more = len(events) > limit
    shown = events[:limit]
    return json_response({"items": [event_json(one) for one in shown], "next_cursor": shown[-1].seq if more else None})


@router.get(
    "/{run_id}/stream",
    responses={
        200: {
            "description": "Events; the data of each is an item of `/runs/{run_id}/events`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **responses(404),
    },
    response_class=EventSourceResponse,
    summary="Watch a run: its events as they become durable (server-sent events), until it ends",
)
async def stream_run(
    run_id: RunPath,
    principal: Viewer,
    services: ServicesDep,
    last_event_id: Annotated[str | None, Header(description="Resume after this event.")] = None,
) -> Response:
    await _visible(services, principal, run_id)
    if last_event_id and not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 10):
        raise BadRequest("`Last-Event-ID` must be the `id` of an event of this run")
    events = _follow(services, principal.workspace, RunId(run_id), int(last_event_id) if last_event_id else 0)
    return EventSourceResponse(events, ping=15)


@router.get(
    "/{run_id}/export",
    responses={
        200: {
            "model": RunExport,
            "description": "The file.",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
        **responses(404),
    },
    summary="The whole run as a file",
)
async def export_run(
    run_id: RunPath,
    principal: Viewer,
    services: ServicesDep,
    format: Annotated[
        Literal["json", "csv"], Query(description="json: run and events; csv: one line an event.")
    ] = "json",
) -> Response:
    stored = await _stored(services, principal, run_id)
    headers = {"Content-Disposition": f'attachment; filename="run-{run_id}.{format}"'}
    if format == "csv":
        return Response(_csv(stored.events), media_type="text/csv; charset=utf-8", headers=headers)
    run = {"run": run_json(state_of(stored)), "spec": stored.spec, "events": [event_json(one) for one in stored.events]}
    return json_response(run, headers=headers)


@router.post(
    "/{run_id}/cancel",
    responses={200: {"model": Run, "description": "The cancelled run."}, **responses(404, 409)},
    openapi_extra={
        "requestBody": {"content": {"application/json": {"schema": CancelRequest.model_json_schema()}}},
    },
    summary="Cancel a run",
)
async def cancel_run(run_id: RunPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, CancelRequest, {})
    await _not_ended(services, principal, run_id)
    reason = wanted.reason or f"cancelled by {principal.name}"
    await services.engine.cancel(RunId(run_id), reason)
    await services.audit.append(principal.workspace, principal.name, "run.cancel", str(run_id), {"reason": reason})
    return await answer(services, RunId(run_id), 0)


@router.post(
    "/{run_id}/steps/{step_id}/resolve",
    responses={
        200: {"model": Run, "description": "The run has ended."},
        202: {"model": Run, "description": "The run goes on."},
        **responses(404, 409),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": ResolveRequest.model_json_schema(),
                    "example": {"outcome": "succeeded", "output": {"id": "ch_1"}},
                }
            },
        }
    },
    summary="Say what became of an attempt whose outcome is unknown",
)
async def resolve_step(
    run_id: RunPath,
    step_id: Annotated[str, Path(max_length=64)],
    request: Request,
    principal: Editor,
    services: ServicesDep,
) -> Response:
    wanted = await read_model(request, ResolveRequest)
    await _not_ended(services, principal, run_id)
    await services.engine.resolve(RunId(run_id), step_id, wanted.item, wanted.outcome, wanted.output)
    await services.audit.append(
        principal.workspace, principal.name, "run.resolve", str(run_id), {"step": step_id, "outcome": wanted.outcome}
    )
    return await answer(services, RunId(run_id), 0)


async def _visible(services: Services, principal: Principal, run_id: uuid.UUID) -> None:
    await services.runs.get(principal.workspace, RunId(run_id))


async def _not_ended(services: Services, principal: Principal, run_id: uuid.UUID) -> None:
    found = await services.runs.get(principal.workspace, RunId(run_id))
    if found.status.final:
        raise Conflict(f"the run has ended already: it is {found.status.value}")


async def _stored(services: Services, principal: Principal, run_id: uuid.UUID) -> StoredRun:
    stored = await services.journal.load(RunId(run_id))
    if stored is None or stored.record.workspace != principal.workspace:
        raise NotFound(f"there is no run {run_id}")
    return stored


async def _follow(
    services: Services, workspace: Workspace, run_id: RunId, after: int
) -> AsyncIterator[ServerSentEvent]:
    with services.notices.watch(run_id) as changed:
        while True:
            changed.clear()
            # Asked before the events are read, so that none of an ended run can come after them.
            ended = (await services.runs.get(workspace, run_id)).status.final
            events = await services.journal.events(run_id, after, _STREAM_BATCH)
            for event in events:
                after = event.seq
                yield ServerSentEvent(
                    orjson.dumps(event_json(event)).decode(), event=event.type.value, id=str(event.seq)
                )
                if event.type.value in ("run_completed", "run_failed", "run_cancelled"):
                    return
            if ended and not events:
                return
            if len(events) < _STREAM_BATCH:
                await _changed(changed)


async def _changed(changed: asyncio.Event) -> None:
    """Wait for a notice; look anyway from time to time, because another process may drive the run."""
    try:
        async with asyncio.timeout(_STREAM_POLL_SECONDS):
            await changed.wait()
    except TimeoutError:
        return


def _csv(events: Sequence[RunEvent]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["seq", "type", "at", "step_id", "item", "attempt", "data"])
    for event in events:
        writer.writerow([_cell(value) for value in _columns(event)])
    return out.getvalue()


def _columns(event: RunEvent) -> list[Any]:
    item = "" if event.item == NO_ITEM else event.item
    data = orjson.dumps(event_json(event)["data"]).decode()
    return [event.seq, event.type.value, event.at.isoformat(), event.step_id or "", item, event.attempt or "", data]


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets a quote in front (OWASP, "CSV Injection")."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
