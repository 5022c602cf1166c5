"""Secrets, API keys and the audit log."""

import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from api.answer import instant, json_response, page
from api.auth import Admin, Editor, ServicesDep, Viewer
from api.body import read_model
from api.models.account import AuditPage, KeyPage, NewKey, SecretPage, SecretStored
from api.paging import Cursor, Limit
from api.problem import responses
from api.request_body import request_body
from core.account import ApiKey, Role

router = APIRouter()

_SECRET_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"  # noqa: S105 -- a pattern


class SecretRequest(BaseModel):
    """A secret to keep."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    name: str = Field(pattern=_SECRET_NAME, examples=["PAYMENT_TOKEN"])
    value: str = Field(min_length=4, max_length=65_536, examples=["a-long-random-text"])


class KeyRequest(BaseModel):
    """An API key to make."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["ci"])
    role: Literal["viewer", "editor", "approver", "admin"] = Field(examples=["editor"])


@router.post(
    "/secrets",
    status_code=201,
    tags=["secrets"],
    responses={201: {"model": SecretStored, "description": "The secret is stored."}, **responses()},
    openapi_extra=request_body(SecretRequest, {"name": "PAYMENT_TOKEN", "value": "sk_live_51H"}),
    summary="Store or replace a secret; its value is never shown again",
)
async def put_secret(request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, SecretRequest)
    await services.secrets.put(principal.workspace, wanted.name, wanted.value, principal.name)
    await services.audit.append(principal.workspace, principal.name, "secret.put", wanted.name, {})
    return json_response({"name": wanted.name}, 201)


@router.get(
    "/secrets",
    tags=["secrets"],
    responses={200: {"model": SecretPage, "description": "All secrets, without their values."}, **responses()},
    summary="The names of all secrets",
)
async def list_secrets(principal: Viewer, services: ServicesDep) -> Response:
    found = await services.secrets.list(principal.workspace)
    return page(
        [
            {
                "name": one.name,
                "created_at": instant(one.created_at),
                "updated_at": instant(one.updated_at),
                "updated_by": one.updated_by,
            }
            for one in found
        ],
        None,
    )


@router.delete(
    "/secrets/{name}", status_code=204, tags=["secrets"], responses=responses(404), summary="Delete a secret"
)
async def delete_secret(
    name: Annotated[str, Path(max_length=128)], principal: Editor, services: ServicesDep
) -> Response:
    await services.secrets.delete(principal.workspace, name)
    await services.audit.append(principal.workspace, principal.name, "secret.delete", name, {})
    return Response(status_code=204)


@router.post(
    "/api-keys",
    status_code=201,
    tags=["api keys"],
    responses={201: {"model": NewKey, "description": "The new key, shown this once."}, **responses()},
    openapi_extra=request_body(KeyRequest, {"name": "ci", "role": "editor"}),
    summary="Make an API key; the key is shown this once",
)
async def create_key(request: Request, principal: Admin, services: ServicesDep) -> Response:
    wanted = await read_model(request, KeyRequest)
    key, plain = await services.api_keys.create(principal.workspace, wanted.name, Role(wanted.role), principal.name)
    await services.audit.append(
        principal.workspace, principal.name, "api_key.create", str(key.id), {"name": key.name, "role": key.role.value}
    )
    return json_response({**_key_json(key), "key": plain}, 201)


@router.get(
    "/api-keys",
    tags=["api keys"],
    responses={200: {"model": KeyPage, "description": "All keys, revoked ones too."}, **responses()},
    summary="All API keys, without the keys themselves",
)
async def list_keys(principal: Admin, services: ServicesDep) -> Response:
    return page([_key_json(one) for one in await services.api_keys.list(principal.workspace)], None)


@router.delete(
    "/api-keys/{key_id}", status_code=204, tags=["api keys"], responses=responses(404, 409), summary="Revoke an API key"
)
async def revoke_key(key_id: uuid.UUID, principal: Admin, services: ServicesDep) -> Response:
    await services.api_keys.revoke(principal.workspace, key_id)
    await services.audit.append(principal.workspace, principal.name, "api_key.revoke", str(key_id), {})
    return Response(status_code=204)


@router.get(
    "/audit",
    tags=["audit"],
    responses={200: {"model": AuditPage, "description": "A page of acts."}, **responses()},
    summary="Who did what, newest first",
)
async def list_audit(
    principal: Admin,
    services: ServicesDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    action: Annotated[str | None, Query(max_length=100)] = None,
    target: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    found = await services.audit.list(principal.workspace, limit=limit, cursor=cursor, action=action, target=target)
    return page(
        [
            {
                "id": str(one.id),
                "at": instant(one.at),
                "actor": one.actor,
                "action": one.action,
                "target": one.target,
                "detail": one.detail,
            }
            for one in found.items
        ],
        found.next_cursor,
    )


def _key_json(key: ApiKey) -> dict[str, Any]:
    return {
        "id": str(key.id),
        "name": key.name,
        "role": key.role.value,
        "prefix": key.prefix,
        "created_at": instant(key.created_at),
        "created_by": key.created_by,
        "last_used_at": instant(key.last_used_at) if key.last_used_at else None,
        "revoked_at": instant(key.revoked_at) if key.revoked_at else None,
    }
