"""Variables that runs share. Those of one run belong to the run, and are set by its steps."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from api.answer import instant, json_response, page
from api.auth import Editor, ServicesDep, Viewer
from api.body import read_model
from api.models.variable import Variable, VariablePage
from api.paging import Cursor, Limit
from api.problem import responses
from api.request_body import request_body
from core.duration import Duration
from core.errors import Fault, Invalid
from core.json import encode
from core.variable import VariableScope
from engine.nodes.variables import MAX_VALUE_BYTES
from infra.postgres.variables import StoredVariable, owner_of

router = APIRouter(prefix="/variables", tags=["variables"])

_OWNER = r"^[^\x00-\x1f\x7f]+$"
Scope = Literal["global", "workflow", "session"]
Name = Annotated[str, Path(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$", examples=["region"])]
Workflow = Annotated[str | None, Query(max_length=200, pattern=_OWNER, description="The workflow's name.")]
Session = Annotated[str | None, Query(max_length=200, pattern=_OWNER, description="The session's name.")]


class VariableRequest(BaseModel):
    """A value to set."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    value: Any = Field(description="Any JSON value, up to 256 KB.", examples=["eu"])
    scope: Scope = Field("global", description="How far the variable reaches.")
    workflow: str | None = Field(None, max_length=200, pattern=_OWNER, description="For the scope `workflow`.")
    session: str | None = Field(None, max_length=200, pattern=_OWNER, description="For the scope `session`.")
    ttl: Duration | None = Field(None, gt=0, description="How long the value lives; default: it stays.")


@router.get(
    "",
    responses={200: {"model": VariablePage, "description": "A page of variables."}, **responses()},
    summary="Variables that outlive a run, by scope and name",
)
async def list_variables(
    principal: Viewer,
    services: ServicesDep,
    scope: Annotated[Scope | None, Query(description="Only those of this scope.")] = None,
    workflow: Workflow = None,
    session: Session = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Response:
    found = await services.stores.variables.list(
        principal.workspace,
        limit=limit,
        cursor=cursor,
        scope=VariableScope(scope) if scope else None,
        workflow=workflow,
        session=session,
    )
    return page([_variable_json(one) for one in found.items], found.next_cursor)


@router.put(
    "/{name}",
    responses={200: {"model": Variable, "description": "The variable as it is now."}, **responses(409)},
    openapi_extra=request_body(VariableRequest, {"value": "eu", "scope": "global", "ttl": "1h"}),
    summary="Set a variable; runs that begin later see it",
)
async def put_variable(name: Name, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, VariableRequest)
    if len(encode(wanted.value)) > MAX_VALUE_BYTES:
        raise Invalid("the value is too large", [Fault("$.value", "length", f"at most {MAX_VALUE_BYTES} bytes")])
    scope = VariableScope(wanted.scope)
    owner = _owner(scope, wanted.workflow, wanted.session)
    expires_at = None if wanted.ttl is None else services.clock.now() + timedelta(seconds=wanted.ttl)
    stored = await services.stores.variables.put(
        principal.workspace, scope, owner, name, wanted.value, expires_at, principal.name
    )
    await services.audit.append(
        principal.workspace, principal.name, "variable.put", name, {"scope": scope.value, "owner": owner}
    )
    return json_response(_variable_json(stored))


@router.delete("/{name}", status_code=204, responses=responses(404), summary="Delete a variable")
async def delete_variable(
    name: Name,
    principal: Editor,
    services: ServicesDep,
    scope: Annotated[Scope, Query(description="Which of that name.")] = "global",
    workflow: Workflow = None,
    session: Session = None,
) -> Response:
    wanted = VariableScope(scope)
    owner = _owner(wanted, workflow, session)
    await services.stores.variables.delete(principal.workspace, wanted, owner, name)
    await services.audit.append(
        principal.workspace, principal.name, "variable.delete", name, {"scope": wanted.value, "owner": owner}
    )
    return Response(status_code=204)


def _owner(scope: VariableScope, workflow: str | None, session: str | None) -> str:
    """Whose the variable is. Raises Invalid when that is not said, or said of a scope that has no owner."""
    faults = []
    for one, given in ((VariableScope.WORKFLOW, workflow), (VariableScope.SESSION, session)):
        if scope is one and not given:
            faults.append(Fault(f"$.{one}", "missing", f"the scope {scope} needs the name of the {one}"))
        if scope is not one and given:
            faults.append(Fault(f"$.{one}", "unexpected", f"the scope {scope} belongs to no {one}; leave it out"))
    if faults:
        raise Invalid("; ".join(fault.message for fault in faults), faults)
    return owner_of(scope, workflow, session)


def _variable_json(stored: StoredVariable) -> dict[str, Any]:
    one = stored.variable
    return {
        "name": one.name,
        "value": one.value,
        "scope": one.scope.value,
        "workflow": stored.owner if one.scope is VariableScope.WORKFLOW else None,
        "session": stored.owner if one.scope is VariableScope.SESSION else None,
        "expires_at": None if one.expires_at is None else instant(one.expires_at),
        "updated_at": instant(stored.updated_at),
        "updated_by": stored.updated_by,
    }
