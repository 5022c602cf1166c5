"""Cached results: what is there, and away with it."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.answer import instant, json_response
from api.auth import Editor, ServicesDep, Viewer
from api.models.cache import CacheCleared, CacheView
from api.problem import responses
from core.errors import Fault, Invalid

router = APIRouter(prefix="/cache", tags=["cache"])

Filter = Annotated[str | None, Query(min_length=1, max_length=200)]


@router.get(
    "",
    responses={200: {"model": CacheView, "description": "What is in the cache."}, **responses()},
    summary="How much is cached, by node",
)
async def get_cache(principal: Viewer, services: ServicesDep) -> Response:
    shares = await services.stores.step_results.shares(principal.workspace, services.clock.now())
    return json_response(
        {
            "entries": sum(one.entries for one in shares),
            "bytes": sum(one.bytes for one in shares),
            "hits": services.step_cache.hits,
            "misses": services.step_cache.misses,
            "nodes": [
                {
                    "node": one.node,
                    "entries": one.entries,
                    "bytes": one.bytes,
                    "oldest": instant(one.oldest),
                    "newest": instant(one.newest),
                }
                for one in shares
            ],
        }
    )


@router.delete(
    "",
    responses={200: {"model": CacheCleared, "description": "They are gone."}, **responses()},
    summary="Remove cached results: those that fit all filters, or all",
)
async def clear_cache(
    principal: Editor,
    services: ServicesDep,
    node: Filter = None,
    workflow: Filter = None,
    step: Filter = None,
    everything: Annotated[bool, Query(alias="all", description="Remove all; needed when no filter is given.")] = False,
) -> Response:
    given = {name: one for name, one in (("node", node), ("workflow", workflow), ("step", step)) if one is not None}
    if everything == bool(given):
        sentence = "say which results by `node`, `workflow` or `step`, or say `all=true`"
        raise Invalid(sentence, [Fault("$.query", "missing" if not given else "bad_value", sentence)])
    removed = await services.stores.step_results.clear(principal.workspace, node, workflow, step)
    await services.audit.append(
        principal.workspace,
        principal.name,
        "cache.clear",
        node or workflow or step or "",
        {**given, "removed": removed},
    )
    return json_response({"removed": removed})
