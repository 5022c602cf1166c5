"""Runs: list, read, watch, export."""

import asyncio
import csv
import io
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Header, Path, Query
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from api.answer import json_response, page
from api.auth import ServicesDep, Viewer
from api.models.run import EventPage, Run, RunExport, RunPage
from api.paging import Cursor, Instant, Limit
from api.problem import BadRequest, responses
from api.programs import find_workflow
from api.run_view import event_json, run_json, summary_json
from api.services import Services
from core.account import Principal
from core.errors import NotFound
from core.ids import RunId, Workspace
from core.journal import StoredRun
from core.run import NO_ITEM, EventType, RunEvent, RunStatus
from engine.history import state_of
from infra.postgres.runs import RunFilter

router = APIRouter(prefix="/runs", tags=["runs"])

RunPath = Annotated[uuid.UUID, Path(description="The run's id.")]
_STREAM_BATCH = 100
_RUN_ENDS = (EventType.RUN_COMPLETED, EventType.RUN_FAILED, EventType.RUN_CANCELLED)
_STREAM_POLL_SECONDS = 1.0


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
    parent: Annotated[uuid.UUID | None, Query(description="Only the runs that this one has started.")] = None,
    nested: Annotated[bool, Query(description="Also runs that other runs have started.")] = False,
) -> Response:
    workflow_id = None
    if workflow is not None:
        workflow_id = (await find_workflow(services.workflows, principal.workspace, workflow)).id
    wanted = RunFilter(
        workflow_id=workflow_id,
        statuses=tuple(status or ()),
        since=since,
        until=until,
        search=search,
        parent=None if parent is None else RunId(parent),
        nested=nested or search is not None,
    )
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


async def _visible(services: Services, principal: Principal, run_id: uuid.UUID) -> None:
    await services.runs.get(principal.workspace, RunId(run_id))


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
            if len(events) == _STREAM_BATCH or (events and not ended and events[-1].type in _RUN_ENDS):
                continue
            if ended:
                return
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
