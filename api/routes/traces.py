"""Traces: read them, and bring in those of other systems."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api.answer import instant, json_response, page
from api.auth import Editor, ServicesDep, Viewer
from api.body import check_encoding, media_type
from api.models.trace import ImportReport, TracePage
from api.paging import Cursor, Instant, Limit
from api.problem import BadRequest, UnsupportedMediaType, responses
from core.errors import Invalid
from core.run import NO_ITEM
from core.trace import TraceRow, TraceStatus
from engine.fingerprint import fingerprint
from infra.clickhouse.importer import import_traces
from infra.clickhouse.traces import TraceFilter

router = APIRouter(prefix="/traces", tags=["traces"])

CATCH_UP_SECONDS = 2.0
"""How long a read waits for the traces of what has just happened."""

_IMPORT_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain")
"""What clients say when they were not told what they send, besides the types of JSON."""

_ROW = {
    "run_id": "order-17",
    "step_id": "charge",
    "node": "payment.charge",
    "status": "error",
    "start": "2026-11-01T02:13:05.120Z",
    "latency_ms": 812.5,
    "error_class": "upstream_5xx",
    "features": {"amount": 1200, "currency": "EUR"},
    "context": {"locale": "de"},
}
_IMPORT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {"type": "object"}},
                "example": [_ROW],
            },
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
}


@router.get(
    "",
    responses={200: {"model": TracePage, "description": "A page of attempts."}, **responses()},
    summary="Attempts, newest first",
)
async def list_traces(
    principal: Viewer,
    services: ServicesDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    run_id: Annotated[str | None, Query(max_length=200)] = None,
    node: Annotated[str | None, Query(max_length=200)] = None,
    node_version: Annotated[str | None, Query(max_length=64)] = None,
    workflow: Annotated[str | None, Query(max_length=200)] = None,
    step_id: Annotated[str | None, Query(max_length=200)] = None,
    status: TraceStatus | None = None,
    error_class: Annotated[str | None, Query(max_length=64)] = None,
    fingerprint: Annotated[str | None, Query(max_length=64)] = None,
    arm: Annotated[str | None, Query(max_length=200)] = None,
    since: Annotated[Instant | None, Query(alias="from", description="Started at or after.")] = None,
    until: Annotated[Instant | None, Query(alias="to", description="Started before.")] = None,
) -> Response:
    await services.shipper.caught_up(CATCH_UP_SECONDS)
    wanted = TraceFilter(
        workspace=principal.workspace,
        run_id=run_id,
        node=node,
        node_version=node_version,
        workflow=workflow,
        step_id=step_id,
        status=status,
        error_class=error_class,
        fingerprint=fingerprint,
        arm=arm,
        start=since,
        end=until,
    )
    found = await services.traces.query(wanted, limit, cursor)
    return page([trace_json(row) for row in found.items], found.next_cursor)


@router.post(
    "",
    responses={200: {"model": ImportReport, "description": "What became of the rows."}, **responses(415)},
    openapi_extra=_IMPORT_BODY,
    summary="Import attempts of another system: a JSON array, or one JSON object a line",
)
async def import_rows(request: Request, principal: Editor, services: ServicesDep) -> Response:
    check_encoding(request)
    kind = media_type(request)
    if kind not in _IMPORT_TYPES and not kind.endswith("json"):
        raise UnsupportedMediaType(f"{kind} is not read here; send application/json or application/x-ndjson")
    try:
        report = await import_traces(services.traces, request.stream(), principal.workspace, fingerprint)
    except Invalid as error:
        if any(fault.code == "bad_json" for fault in error.faults):
            raise BadRequest(f"the body cannot be read: {error.detail}") from None
        raise
    faults = sorted(report.faults, key=lambda one: one.line)
    return json_response(
        {
            "inserted": report.inserted,
            "duplicates": report.duplicates,
            "rejected": report.rejected,
            "faults": [{"line": one.line, "field": one.field, "reason": one.reason} for one in faults],
        }
    )


def trace_json(row: TraceRow) -> dict[str, Any]:
    """An attempt as the API shows it; what says nothing is left out."""
    shown: dict[str, Any] = {
        "attempt_id": str(row.attempt_id),
        "run_id": row.run_id,
        "workflow": row.workflow,
        "workflow_version": row.workflow_version,
        "step_id": row.step_id,
        "attempt": row.attempt,
        "node": row.node,
        "node_version": row.node_version,
        "status": row.status.value,
        "start": instant(row.start),
        "latency_ms": row.latency_ms,
        "queue_ms": row.queue_ms,
        "arm": row.arm,
        "arm_probability": row.arm_probability,
        "route_revision": row.route_revision,
        "cache_hit": row.cache_hit,
        "inputs_hash": row.inputs_hash,
        "cost_usd": row.cost_usd,
        "tokens_in": row.tokens_in,
        "tokens_out": row.tokens_out,
        "metrics": row.metrics,
        "features": {**row.numbers, **row.texts},
        "context": row.context,
    }
    if row.item != NO_ITEM:
        shown["item"] = row.item
    if row.error_class:
        shown["error_class"] = row.error_class
        shown["error_message"] = row.error_message
        shown["error_fingerprint"] = row.error_fingerprint
    for name in ("assigned_arm", "served_by", "breaker"):
        if value := getattr(row, name):
            shown[name] = value
    if row.rollout:
        shown["rollout"], shown["stage"] = row.rollout, row.stage
    return shown
