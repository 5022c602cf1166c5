"""Nodes: the catalogue, the manifests, and versions that are made of other nodes."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from api.answer import instant, json_response, page
from api.auth import Editor, ServicesDep, Viewer
from api.body import read_model
from api.models.node import NewNodeVersion, Node, NodePage, NodeVersionModel
from api.problem import responses
from api.replay import once
from api.request_body import request_body
from api.services import Services
from core.account import Principal
from core.errors import Conflict, NotFound
from core.ids import Workspace
from core.json import JsonValue
from core.manifest import NodeStatus
from core.node_version import StoredNodeVersion
from engine.node.binding import BindingSpec
from engine.node.registry import NodeNotFound, NodeRegistry
from engine.node.version import NodeVersion
from engine.validation.binding import bind

router = APIRouter(prefix="/nodes", tags=["nodes"])

_EXAMPLE: JsonValue = {
    "name": "payment.charge",
    "version": "1.0.0",
    "label": "stripe",
    "base": "http.request",
    "with": {"method": "POST", "url": "https://payments.example/charges", "json": "{{ input }}"},
    "effect": "idempotent",
}

Name = Annotated[str, Path(max_length=128, examples=["http.request"])]
VersionNumber = Annotated[str, Path(max_length=64, examples=["1.0.0"])]


@router.get(
    "",
    responses={200: {"model": NodePage, "description": "The newest version of each node."}, **responses()},
    summary="All nodes, at their newest version",
)
async def list_nodes(
    principal: Viewer,
    services: ServicesDep,
    search: Annotated[str, Query(max_length=100, description="Part of name, title or category.")] = "",
) -> Response:
    registry = services.registry.within(principal.workspace)
    newest = [_newest(registry, name) for name in registry.names()]
    wanted = search.lower()
    shown = [_summary(one) for one in newest if wanted in _words(one)]
    return page(shown, None)


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": NodeVersionModel, "description": "It was there already."},
        201: {"model": NodeVersionModel, "description": "The node version is there."},
        **responses(409),
    },
    openapi_extra=request_body(NewNodeVersion, _EXAMPLE),
    summary="Make a node version of another node, with parameters filled in",
)
async def create_node_version(request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, NewNodeVersion)

    async def write(_: uuid.UUID | None) -> Response:
        return await _create(wanted, principal, services)

    return await once(request, services, principal, write)


@router.get(
    "/{name}",
    responses={200: {"model": Node, "description": "The newest manifest, and all versions."}, **responses(404)},
    summary="A node with all its versions",
)
async def get_node(name: Name, principal: Viewer, services: ServicesDep) -> Response:
    registry = services.registry.within(principal.workspace)
    versions = registry.versions(name)
    manifest = _newest(registry, name).manifest
    return json_response(
        {**manifest.model_dump(mode="json"), "versions": [_summary(one) for one in reversed(versions)]}
    )


@router.get(
    "/{name}/versions",
    responses={200: {"model": NodePage, "description": "All versions."}, **responses(404)},
    summary="The versions of a node, newest first",
)
async def list_node_versions(name: Name, principal: Viewer, services: ServicesDep) -> Response:
    registry = services.registry.within(principal.workspace)
    return page([_summary(one) for one in reversed(registry.versions(name))], None)


@router.get(
    "/{name}/versions/{version}",
    responses={
        200: {"model": NodeVersionModel, "description": "The manifest, and what it is made of."},
        **responses(404),
    },
    summary="A node version in full",
)
async def get_node_version(name: Name, version: VersionNumber, principal: Viewer, services: ServicesDep) -> Response:
    return json_response(await _full(services, principal.workspace, name, version))


@router.post(
    "/{name}/versions/{version}/promote",
    responses={
        200: {"model": NodeVersionModel, "description": "The version, one stage further."},
        **responses(404, 409),
    },
    summary="Move a node version one stage: draft, staging, production",
)
async def promote_node_version(
    name: Name, version: VersionNumber, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    async def write(_: uuid.UUID | None) -> Response:
        _refuse_built_in(services, principal, name, version, "promoted")
        stored = await services.stores.node_versions.promote(principal.workspace, name, version)
        return await _moved(services, principal, stored, "node.promote")

    return await once(request, services, principal, write)


@router.post(
    "/{name}/versions/{version}/deprecate",
    responses={
        200: {"model": NodeVersionModel, "description": "The version, found only by its number from now on."},
        **responses(404, 409),
    },
    summary="Take a node version out of use; steps that name it exactly still get it",
)
async def deprecate_node_version(
    name: Name, version: VersionNumber, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    async def write(_: uuid.UUID | None) -> Response:
        _refuse_built_in(services, principal, name, version, "deprecated")
        stored = await services.stores.node_versions.deprecate(principal.workspace, name, version)
        return await _moved(services, principal, stored, "node.deprecate")

    return await once(request, services, principal, write)


async def _create(wanted: NewNodeVersion, principal: Principal, services: Services) -> Response:
    spec = BindingSpec.model_validate({k: v for k, v in wanted.to_json().items() if k != "status"})
    node, base = bind(spec, services.registry.within(principal.workspace), NodeStatus(wanted.status))
    if services.registry.has(spec.name, spec.version):
        raise Conflict(f"{node} is there already and is not a version of yours; choose another version")
    stored, new = await services.stores.node_versions.add(
        principal.workspace, node.manifest, spec.to_json(), base, spec.label, principal.name
    )
    if new:
        detail = {"base": base, "status": wanted.status}
        await services.audit.append(principal.workspace, principal.name, "node.create", str(node), detail)
    await _refresh(services)
    shown = await _full(services, principal.workspace, stored.name, stored.version)
    return json_response(shown, 201 if new else 200)


async def _moved(services: Services, principal: Principal, stored: StoredNodeVersion, act: str) -> Response:
    target = f"{stored.name}@{stored.version}"
    await services.audit.append(principal.workspace, principal.name, act, target, {"status": stored.status.value})
    await _refresh(services)
    return json_response(await _full(services, principal.workspace, stored.name, stored.version))


async def _refresh(services: Services) -> None:
    """What has changed counts here from now on; other processes follow."""
    await services.workspace_nodes.reload()
    services.programs.changed_here()


def _refuse_built_in(services: Services, principal: Principal, name: str, version: str, act: str) -> None:
    found = _exact(services.registry.within(principal.workspace), name, version)
    if found.binding is None:
        raise Conflict(f"{found} comes with the program and cannot be {act}")


def _exact(registry: NodeRegistry, name: str, version: str) -> NodeVersion:
    for one in registry.versions(name):
        if one.manifest.version == version:
            return one
    raise NotFound(f"there is no version {version} of the node {name}")


def _newest(registry: NodeRegistry, name: str) -> NodeVersion:
    """The newest version in production, else the newest of all."""
    try:
        return registry.resolve(name)
    except NodeNotFound:
        return registry.versions(name)[-1]


async def _full(services: Services, workspace: Workspace, name: str, version: str) -> dict[str, Any]:
    found = _exact(services.registry.within(workspace), name, version)
    shown = found.manifest.model_dump(mode="json")
    if found.label:
        shown["label"] = found.label
    if found.binding is not None:
        stored = await services.stores.node_versions.get(workspace, name, version)
        binding = {"base": stored.base, "with": stored.binding.get("with", {})}
        if stored.binding.get("output") is not None:
            binding["output"] = stored.binding["output"]
        shown["binding"] = binding
        shown["created_at"], shown["created_by"] = instant(stored.created_at), stored.created_by
    return shown


def _summary(version: NodeVersion) -> dict[str, Any]:
    manifest = version.manifest
    shown = {
        "name": manifest.name,
        "version": manifest.version,
        "title": manifest.title,
        "category": manifest.category,
        "effect": manifest.effect.value,
        "status": manifest.status.value,
    }
    if version.label:
        shown["label"] = version.label
    return shown


def _words(version: NodeVersion) -> str:
    manifest = version.manifest
    return f"{manifest.name} {manifest.title} {manifest.category}".lower()
