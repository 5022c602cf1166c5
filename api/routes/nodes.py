"""Nodes: the catalogue and the manifests."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.answer import json_response, page
from api.auth import ServicesDep, Viewer
from api.models.node import Node, NodePage
from api.problem import responses
from core.errors import NotFound
from core.manifest import NodeManifest
from engine.node.version import NodeVersion

router = APIRouter(prefix="/nodes", tags=["nodes"])

Name = Annotated[str, Path(max_length=128, examples=["http.request"])]


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
    del principal
    registry = services.registry
    newest = [registry.versions(name)[-1] for name in registry.names()]
    wanted = search.lower()
    shown = [_summary(one) for one in newest if wanted in _words(one)]
    return page(shown, None)


@router.get(
    "/{name}",
    responses={200: {"model": Node, "description": "The newest manifest, and all versions."}, **responses(404)},
    summary="A node with all its versions",
)
async def get_node(name: Name, principal: Viewer, services: ServicesDep) -> Response:
    del principal
    versions = services.registry.versions(name)
    newest = services.registry.resolve(name)
    return json_response(
        {**newest.manifest.model_dump(mode="json"), "versions": [_summary(one) for one in reversed(versions)]}
    )


@router.get(
    "/{name}/versions",
    responses={200: {"model": NodePage, "description": "All versions."}, **responses(404)},
    summary="The versions of a node, newest first",
)
async def list_node_versions(name: Name, principal: Viewer, services: ServicesDep) -> Response:
    del principal
    services.registry.resolve(name)
    return page([_summary(one) for one in reversed(services.registry.versions(name))], None)


@router.get(
    "/{name}/versions/{version}",
    responses={200: {"model": NodeManifest, "description": "The manifest."}, **responses(404)},
    summary="The manifest of a node version",
)
async def get_node_version(
    name: Name, version: Annotated[str, Path(max_length=64)], principal: Viewer, services: ServicesDep
) -> Response:
    del principal
    for one in services.registry.versions(name):
        if one.manifest.version == version:
            return json_response(one.manifest.model_dump(mode="json"))
    raise NotFound(f"there is no version {version} of the node {name}")


def _summary(version: NodeVersion) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "title": manifest.title,
        "category": manifest.category,
        "effect": manifest.effect.value,
        "status": manifest.status.value,
    }


def _words(version: NodeVersion) -> str:
    manifest = version.manifest
    return f"{manifest.name} {manifest.title} {manifest.category}".lower()
