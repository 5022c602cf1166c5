"""One action on many runs. Each is asked like a single one; what is refused for one changes nothing for the others."""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from api.models.operation import MAX_BULK, BulkFilter, BulkRequest
from api.programs import find_workflow
from api.services import Services
from core.account import Principal
from core.clock import uuid7
from core.errors import Fault, Invalid, RefluxError
from core.ids import RunId
from core.run import RunStatus
from infra.postgres.runs import RunFilter

_AT_ONCE = 10

_ACTIVE = (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING)
SENSIBLE: dict[str, tuple[RunStatus, ...]] = {
    "cancel": (*_ACTIVE, RunStatus.PAUSED),
    "pause": _ACTIVE,
    "resume": (RunStatus.PAUSED,),
    "restart": (RunStatus.FAILED, RunStatus.CANCELLED),
}
"""Statuses of the runs that a filter finds when it names none."""

Act = Callable[[RunId], Awaitable[RunId | None]]
"""Does the action to one run; gives the new run, if it makes one."""


async def runs_of(services: Services, principal: Principal, wanted: BulkRequest) -> tuple[list[RunId], str | None]:
    """The runs that are meant, and the cursor for those that are left. Raises Invalid, NotFound."""
    if (wanted.run_ids is None) == (wanted.filter is None):
        said = "Give either `run_ids` or `filter`."
        raise Invalid(said, [Fault("$.run_ids", "bad_value", said)])
    if wanted.filter is None:
        return [RunId(one) for one in dict.fromkeys(wanted.run_ids or ())], None
    chosen: BulkFilter = wanted.filter
    workflow_id = None
    if chosen.workflow is not None:
        workflow_id = (await find_workflow(services.workflows, principal.workspace, chosen.workflow)).id
    statuses = SENSIBLE[wanted.action] if chosen.status is None else tuple(chosen.status)
    narrowed = RunFilter(workflow_id, statuses, chosen.since, chosen.until, chosen.search)
    found = await services.runs.list(principal.workspace, narrowed, limit=MAX_BULK, cursor=chosen.cursor)
    return [one.id for one in found.items], found.next_cursor


async def act_on_each(run_ids: Sequence[RunId], act: Act) -> list[dict[str, Any]]:
    """Do it to each, a few at once; gives the outcomes in the same order."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(run_id: RunId) -> dict[str, Any]:
        async with room:
            try:
                made = await act(run_id)
            except RefluxError as error:
                problem = {"status": error.status, "title": error.title, "detail": error.detail}
                return {"run_id": str(run_id), "ok": False, "error": problem}
        return {"run_id": str(run_id), "ok": True, **({"restarted_as": str(made)} if made else {})}

    return await asyncio.gather(*[one(run_id) for run_id in run_ids])


def derived_id(base: uuid.UUID, run_id: RunId) -> uuid.UUID:
    """The id of what is made for one run of a request: the same when the request is sent again under its key."""
    digest = hashlib.blake2b(base.bytes + run_id.bytes, digest_size=10).digest()
    return uuid7(base.int >> 80, int.from_bytes(digest) & ((1 << 74) - 1))
