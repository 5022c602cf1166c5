"""Workers, and the queue depth of each node group."""

from fastapi import APIRouter
from starlette.responses import Response

from api.answer import instant, json_response
from api.auth import ServicesDep, Viewer
from api.models.worker import WorkerList
from api.problem import responses

router = APIRouter(prefix="/workers", tags=["workers"])


@router.get(
    "",
    responses={200: {"model": WorkerList, "description": "Live workers, and what waits for them."}, **responses()},
    summary="Worker processes, and the queue depth of each node group",
)
async def list_workers(principal: Viewer, services: ServicesDep) -> Response:
    del principal
    lives = await services.stores.workers.live()
    figures = await services.stores.workers.figures()
    return json_response(
        {
            "workers": [
                {
                    "id": str(one.id),
                    "groups": list(one.groups),
                    "hostname": one.hostname,
                    "pid": one.pid,
                    "concurrency": one.concurrency,
                    "running": one.running,
                    "started_at": instant(one.started_at),
                }
                for one in lives
            ],
            "groups": [
                {
                    "group": one.group,
                    "queued": one.queued,
                    "running": one.running,
                    "workers": one.workers,
                    "oldest_seconds": round(one.oldest_seconds, 3),
                }
                for one in figures
            ],
        }
    )
