"""Workflows: make, check, read, change, run."""

import asyncio
import uuid
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from api.answer import instant, json_response, page
from api.auth import Editor, ServicesDep, Viewer, authorized
from api.body import read_document, read_model
from api.execution import LONGEST_WAIT, ExecuteRequest, execute
from api.models.run import Run
from api.models.workflow import Validation, Workflow, WorkflowPage, WorkflowVersionPage
from api.paging import Cursor, Limit
from api.problem import fault_json, responses
from api.programs import find_workflow
from api.replay import once
from api.request_body import request_body
from api.services import Services
from core.account import Principal, Role
from core.errors import Conflict, Fault, Invalid
from core.ids import WorkflowId
from core.spec import WorkflowSpec
from engine.schema import workflow_schema
from engine.validation import Validated, validate
from engine.validation.mentions import mentioned_workflows
from infra.postgres.workflows import OnCurrent, StoredWorkflow

router = APIRouter(prefix="/workflows", tags=["workflows"])

_QUICK_SPEC = 4 * 1024
"""Bytes up to which a spec is checked at once; a larger one can take seconds, and does so beside the event loop."""
_large_specs = asyncio.Semaphore(1)

_EXAMPLE = {
    "name": "greet",
    "steps": [{"id": "hello", "node": "transform.map", "with": {"value": "Hello {{ input.name }}"}}],
    "outputs": {"text": "{{ steps.hello.output }}"},
}
_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/WorkflowSpec"}, "example": _EXAMPLE},
            "application/yaml": {"schema": {"type": "string"}},
        },
    }
}
Reference = Annotated[str, Path(description="The workflow's id or name.", max_length=200, examples=["greet"])]


class Publish(BaseModel):
    """Which version becomes the current one."""

    model_config = ConfigDict(extra="forbid")
    version: int = Field(ge=1, le=2**31 - 1, examples=[1])


@router.post(
    "",
    status_code=201,
    responses={201: {"model": Workflow, "description": "The workflow at its new version."}, **responses(415)},
    openapi_extra=_SPEC_BODY,
    summary="Create a workflow, or a new version of the workflow of that name",
)
async def create_workflow(request: Request, principal: Editor, services: ServicesDep) -> Response:
    spec = await _checked(request, services, principal)

    async def write(_: uuid.UUID | None) -> Response:
        return await _save(services, principal, spec, 201)

    return await once(request, services, principal, write)


@router.post(
    "/validate",
    responses={200: {"model": Validation, "description": "What was found."}, **responses(415)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {}, "example": _EXAMPLE},
                "application/yaml": {"schema": {"type": "string"}},
            },
        }
    },
    summary="Check a spec without storing it; all faults at once",
)
async def validate_workflow(request: Request, principal: Viewer, services: ServicesDep) -> Response:
    found = await _validated(request, services, principal)
    faults = [] if isinstance(found, Validated) else [fault_json(fault) for fault in found]
    return json_response({"valid": not faults, "faults": faults})


@router.get(
    "",
    responses={200: {"model": WorkflowPage, "description": "A page of workflows."}, **responses()},
    summary="List workflows, newest first",
)
async def list_workflows(
    principal: Viewer,
    services: ServicesDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    search: Annotated[str | None, Query(max_length=200, description="Part of the name.")] = None,
) -> Response:
    found = await services.workflows.list(principal.workspace, limit=limit, cursor=cursor, search=search)
    return page([_summary_json(one) for one in found.items], found.next_cursor)


@router.get(
    "/{workflow_id}",
    responses={
        200: {"model": Workflow, "description": "The workflow at the version asked for, or else the current one."},
        **responses(404),
    },
    summary="Read a workflow",
)
async def get_workflow(
    workflow_id: Reference,
    principal: Viewer,
    services: ServicesDep,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> Response:
    workflow = await find_workflow(services.workflows, principal.workspace, workflow_id)
    if version is not None and version != workflow.version:
        workflow = await services.workflows.get(principal.workspace, workflow.id, version)
    return json_response(_workflow_json(workflow))


@router.put(
    "/{workflow_id}",
    responses={200: {"model": Workflow, "description": "The workflow at its new version."}, **responses(404, 409, 415)},
    openapi_extra=_SPEC_BODY,
    summary="Give a workflow a new version, which becomes the current one",
)
async def put_workflow(workflow_id: Reference, request: Request, principal: Editor, services: ServicesDep) -> Response:
    workflow = await find_workflow(services.workflows, principal.workspace, workflow_id)
    spec = await _checked(request, services, principal)
    if spec.name != workflow.name:
        raise Conflict(f"the spec's name is {spec.name!r}, the workflow's {workflow.name!r}; a name cannot be changed")

    async def write(_: uuid.UUID | None) -> Response:
        return await _save(services, principal, spec, 200)

    return await once(request, services, principal, write)


@router.delete("/{workflow_id}", status_code=204, responses=responses(404), summary="Delete a workflow; its runs stay")
async def delete_workflow(workflow_id: Reference, principal: Editor, services: ServicesDep) -> Response:
    workflow = await find_workflow(services.workflows, principal.workspace, workflow_id)
    await services.workflows.delete(principal.workspace, workflow.id, services.stores.triggers.remove_all_within)
    await services.audit.append(principal.workspace, principal.name, "workflow.delete", workflow.name, {})
    services.programs.changed_here()
    return Response(status_code=204)


@router.get(
    "/{workflow_id}/versions",
    responses={200: {"model": WorkflowVersionPage, "description": "All versions."}, **responses(404)},
    summary="All versions of a workflow, newest first",
)
async def list_versions(workflow_id: Reference, principal: Viewer, services: ServicesDep) -> Response:
    workflow = await find_workflow(services.workflows, principal.workspace, workflow_id)
    versions = await services.workflows.versions(principal.workspace, workflow.id)
    return page(
        [
            {
                "version": one.version,
                "current": one.current,
                "created_at": instant(one.created_at),
                "created_by": one.created_by,
                "spec_hash": one.spec_hash,
            }
            for one in versions
        ],
        None,
    )


@router.post(
    "/{workflow_id}/publish",
    responses={200: {"model": Workflow, "description": "The workflow at that version."}, **responses(404, 409)},
    openapi_extra=request_body(Publish, {"version": 1}),
    summary="Make a version the current one",
)
async def publish_workflow(
    workflow_id: Reference, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    workflow = await find_workflow(services.workflows, principal.workspace, workflow_id)
    wanted = await read_model(request, Publish)

    async def write(_: uuid.UUID | None) -> Response:
        published = await services.workflows.publish(
            principal.workspace, WorkflowId(workflow.id), wanted.version, _with_triggers(services)
        )
        await services.audit.append(
            principal.workspace, principal.name, "workflow.publish", workflow.name, {"version": wanted.version}
        )
        services.programs.changed_here()
        return json_response(_workflow_json(published))

    return await once(request, services, principal, write)


@router.post(
    "/{workflow_id}/execute",
    responses={
        200: {"model": Run, "description": "The run has ended within `wait`; see its status."},
        202: {"model": Run, "description": "The run is accepted and goes on, whatever happens to this server."},
        **responses(404),
    },
    openapi_extra={
        "security": [{"HTTPBearer": []}],
        "parameters": [
            {"name": "workflow_id", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 200}},
            {
                "name": "wait",
                "in": "query",
                "description": "Seconds to wait for the end of the run.",
                "schema": {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT, "default": 0},
            },
        ],
        **request_body(ExecuteRequest, {"input": {"name": "Ada"}, "context": {"locale": "de"}}),
    },
    summary="Run a workflow",
)
async def execute_workflow(request: Request) -> Response:
    # The hot path: FastAPI's injection of parameters costs more than a small workflow does.
    principal = await authorized(request, Role.EDITOR)
    return await execute(request, request.app.state.services, principal, request.path_params["workflow_id"])


async def _validated(request: Request, services: Services, principal: Principal) -> Validated | list[Fault]:
    document = await read_document(request)
    registry = services.registry.within(principal.workspace)
    names = await services.workflows.known(principal.workspace, mentioned_workflows(document))
    if len(await request.body()) <= _QUICK_SPEC:
        return validate(document, registry, names.__contains__)
    async with _large_specs:
        return await asyncio.to_thread(validate, document, registry, names.__contains__)


async def _checked(request: Request, services: Services, principal: Principal) -> WorkflowSpec:
    found = await _validated(request, services, principal)
    if isinstance(found, Validated):
        return found.spec
    count = len(found)
    raise Invalid(f"the workflow has {count} fault{'s' if count > 1 else ''}: {found[0].message}", found)


async def _save(services: Services, principal: Principal, spec: WorkflowSpec, status: int) -> Response:
    await services.triggers.check(principal.workspace, spec.name, spec.triggers)
    workflow = await services.workflows.save(principal.workspace, spec, principal.name, _with_triggers(services))
    await services.audit.append(
        principal.workspace, principal.name, "workflow.save", workflow.name, {"version": workflow.version}
    )
    services.programs.changed_here()
    return json_response(_workflow_json(workflow), status)


def _with_triggers(services: Services) -> OnCurrent:
    """Makes the triggers of a version that becomes current those that fire, in the same transaction."""

    async def replace(connection: AsyncConnection, workflow: StoredWorkflow, now: datetime) -> None:
        drafts = services.triggers.drafts(workflow.spec.triggers)
        await services.stores.triggers.replace_within(connection, workflow.workspace, workflow.id, drafts, now)

    return replace


def _workflow_json(workflow: StoredWorkflow) -> dict[str, Any]:
    return {**_summary_json(workflow), "spec": workflow.spec.to_json()}


def _summary_json(workflow: StoredWorkflow) -> dict[str, Any]:
    return {
        "id": str(workflow.id),
        "name": workflow.name,
        "description": workflow.spec.description,
        "version": workflow.version,
        "current_version": workflow.current_version,
        "steps": len(workflow.spec.steps),
        "created_at": instant(workflow.created_at),
        "updated_at": instant(workflow.updated_at),
    }


schemas = APIRouter(prefix="/schemas", tags=["schemas"])


@schemas.get(
    "/workflow",
    responses={
        200: {
            "description": "A JSON Schema (2020-12).",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **responses(),
    },
    summary="The JSON Schema of a workflow spec",
)
async def get_workflow_schema() -> Response:
    return json_response(workflow_schema())
