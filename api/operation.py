"""Asks the engine something about a run: is the run there, is the step there, may this caller, then the audit log."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Path
from starlette.requests import Request
from starlette.responses import Response

from api.execution import answer
from api.models.run import Run
from api.problem import responses
from api.replay import once
from api.services import Services
from core.account import Principal, Role
from core.command import Command
from core.errors import Conflict, Forbidden, NotFound
from core.ids import RunId
from core.journal import StoredRun
from core.json import JsonValue
from engine.history import state_of
from engine.state import RunState, TaskState
from engine.wording import did_you_mean, nearest

RunPath = Annotated[uuid.UUID, Path(description="The run's id.")]
StepPath = Annotated[str, Path(max_length=64, description="The step's id.")]

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": Run, "description": "The run has ended."},
    202: {"model": Run, "description": "The run goes on."},
    **responses(404, 409),
}
"""A run may end before it is read back, so both are possible everywhere."""

Make = Callable[[uuid.UUID], Command]
"""Makes the command with an id."""


async def stored_run(services: Services, principal: Principal, run_id: uuid.UUID) -> StoredRun:
    """A run with its history. Raises NotFound."""
    stored = await services.journal.load(RunId(run_id))
    if stored is None or stored.record.workspace != principal.workspace:
        raise NotFound(f"there is no run {run_id}")
    return stored


async def visible(services: Services, principal: Principal, run_id: uuid.UUID) -> None:
    """Raises NotFound when the caller has no such run."""
    await services.runs.get(principal.workspace, RunId(run_id))


async def not_ended(services: Services, principal: Principal, run_id: uuid.UUID) -> None:
    """Raises NotFound, or Conflict when nothing more will happen to the run."""
    found = await services.runs.get(principal.workspace, RunId(run_id))
    if found.status.final:
        raise Conflict(f"the run has ended already: it is {found.status.value}")


def alive(services: Services, principal: Principal, run_id: uuid.UUID) -> Callable[[], Awaitable[None]]:
    """`not_ended`, to be asked later."""

    async def check() -> None:
        await not_ended(services, principal, run_id)

    return check


def alive_with(
    services: Services, principal: Principal, run_id: uuid.UUID, step_id: str
) -> Callable[[], Awaitable[None]]:
    """`not_ended` and `check_step`, to be asked later."""

    async def check() -> None:
        await not_ended(services, principal, run_id)
        check_step(state_of(await stored_run(services, principal, run_id)), step_id)

    return check


def check_step(state: RunState, step_id: str) -> None:
    """Raises NotFound when the run has no such step."""
    if step_id not in state.steps:
        raise NotFound(f"the run has no step {step_id[:64]!r}{did_you_mean(nearest(step_id, state.steps))}")


def check_may_answer(principal: Principal, state: RunState, step_id: str, item: int, kinds: tuple[str, ...]) -> None:
    """Whether the step waits for such an answer now, and for one of this caller.

    Raises:
        NotFound: the run has no such step.
        Conflict: it does not wait for that.
        Forbidden: the step asks for somebody with another role.
    """
    check_step(state, step_id)
    task: TaskState | None = state.steps[step_id].tasks.get(item)
    wait: dict[str, Any] | None = None if task is None else task.wait
    if wait is None or wait.get("kind") not in kinds:
        raise Conflict(f"the step {step_id!r} does not wait for {' or '.join(kinds)} at this moment")
    role = Role(wait.get("role") or (Role.APPROVER if wait["kind"] == "approval" else Role.EDITOR))
    if not principal.role.covers(role):
        raise Forbidden(f"this needs the role {role.value}; the key {principal.name!r} has {principal.role.value}")


async def perform(
    request: Request,
    services: Services,
    principal: Principal,
    run_id: uuid.UUID,
    make: Make,
    detail: dict[str, JsonValue],
    check: Callable[[], Awaitable[None]],
) -> Response:
    """Give a command to the engine that drives the run, once for each `Idempotency-Key`.

    Args:
        detail: small facts for the audit log.
        check: raises when this cannot be asked of the run as it is; not asked again for an answer that is known.

    Returns:
        the run as it is then: 200 when it has ended, 202 when it goes on.
    """

    async def write(reserved: uuid.UUID | None) -> Response:
        await check()
        command = make(reserved or services.clock.new_id())
        await services.engine.command(RunId(run_id), command)
        await services.audit.append(principal.workspace, principal.name, f"run.{command.kind}", str(run_id), detail)
        return await answer(services, RunId(run_id), 0)

    return await once(request, services, principal, write)
