"""Operating runs as a whole: cancel, pause, resume, restart, signal, patch, breakpoints."""

import uuid
from collections.abc import Awaitable
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from api.auth import Editor, ServicesDep
from api.body import read_model
from api.execution import answer
from api.models.operation import (
    BreakpointsRequest,
    CancelRequest,
    ContinueRequest,
    GraphRequest,
    PauseRequest,
    RestartRequest,
    ResumeRequest,
    SignalRequest,
)
from api.models.run import Run
from api.operation import ANSWERS, RunPath, alive, not_ended, perform, stored_run
from api.problem import responses
from api.replay import once
from api.request_body import request_body
from api.restart import prepare_restart, restart_run
from api.routes import bulk, step_operations
from api.services import Services
from core.account import Principal
from core.command import Breakpoints, Cancel, Patch, Pause, Proceed, Resume, Signal
from core.errors import Fault, Invalid
from core.ids import RunId
from core.json import JsonValue
from engine.history import state_of
from engine.wording import did_you_mean, nearest

router = APIRouter(prefix="/runs", tags=["runs"])
router.include_router(bulk.router)
router.include_router(step_operations.router)

SignalPath = Annotated[str, Path(max_length=200, pattern=r"^[^\x00-\x1f]+$", description="What `flow.wait` waits for.")]


@router.post(
    "/{run_id}/cancel",
    responses=ANSWERS,
    openapi_extra=request_body(CancelRequest, {"reason": "the customer withdrew the order"}),
    summary="Cancel a run",
)
async def cancel_run(run_id: RunPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, CancelRequest, {})
    reason = wanted.reason or f"cancelled by {principal.name}"

    def make(new: uuid.UUID) -> Cancel:
        return Cancel(id=new, by=principal.name, reason=reason)

    check = alive(services, principal, run_id)
    return await perform(request, services, principal, run_id, make, {"reason": reason}, check)


@router.post(
    "/{run_id}/pause",
    responses=ANSWERS,
    openapi_extra=request_body(PauseRequest, {"reason": "the provider has an outage"}),
    summary="Start nothing more until the run is resumed",
)
async def pause_run(run_id: RunPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, PauseRequest, {})

    def make(new: uuid.UUID) -> Pause:
        return Pause(id=new, by=principal.name, reason=wanted.reason)

    check = alive(services, principal, run_id)
    return await perform(request, services, principal, run_id, make, {"reason": wanted.reason}, check)


@router.post(
    "/{run_id}/resume", responses=ANSWERS, openapi_extra=request_body(ResumeRequest, {}), summary="Go on after a pause"
)
async def resume_run(run_id: RunPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    await read_model(request, ResumeRequest, {})

    def make(new: uuid.UUID) -> Resume:
        return Resume(id=new, by=principal.name)

    return await perform(request, services, principal, run_id, make, {}, alive(services, principal, run_id))


@router.post(
    "/{run_id}/restart",
    responses={
        200: {"model": Run, "description": "The new run, which has ended already."},
        202: {"model": Run, "description": "The new run."},
        **responses(404, 409),
    },
    openapi_extra=request_body(RestartRequest, {"from_step": "charge"}),
    summary="Start a new run like this one, from the beginning or from a step",
)
async def restart(run_id: RunPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, RestartRequest, {})
    stored = await stored_run(services, principal, run_id)
    prepared = await prepare_restart(services, stored, wanted)
    detail: dict[str, JsonValue] = {"from_step": wanted.from_step, "version": wanted.version}

    def write(reserved: uuid.UUID | None) -> Awaitable[Response]:
        new = RunId(reserved or services.clock.new_id())
        restart_run(services, principal, stored, prepared, new)
        return _restarted(services, principal, run_id, new, detail)

    async def again(reserved: uuid.UUID | None) -> Response:
        assert reserved is not None
        if services.engine.actor(RunId(reserved)) or await services.journal.load(RunId(reserved)):
            return await answer(services, RunId(reserved), 0)
        return await write(reserved)

    return await once(request, services, principal, write, again)


async def _restarted(
    services: Services, principal: Principal, old: uuid.UUID, new: RunId, detail: dict[str, JsonValue]
) -> Response:
    response = await answer(services, new, 0)
    told = {**detail, "run_id": str(new)}
    await services.audit.append(principal.workspace, principal.name, "run.restart", str(old), told)
    return response


@router.post(
    "/{run_id}/signals/{name}",
    responses=ANSWERS,
    openapi_extra=request_body(SignalRequest, {"payload": {"paid": True}}),
    summary="Tell the run something; it is kept until a `flow.wait` takes it",
)
async def signal_run(
    run_id: RunPath, name: SignalPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    wanted = await read_model(request, SignalRequest, {})

    def make(new: uuid.UUID) -> Signal:
        return Signal(id=new, by=principal.name, name=name, payload=wanted.payload)

    check = alive(services, principal, run_id)
    return await perform(request, services, principal, run_id, make, {"signal": name}, check)


@router.patch(
    "/{run_id}/graph",
    responses=ANSWERS,
    openapi_extra=request_body(
        GraphRequest, {"operations": [{"op": "update_params", "id": "charge", "with": {"amount": 12}}]}
    ),
    summary="Change steps of the run that have not started; the whole is validated like a spec",
)
async def patch_graph(run_id: RunPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, GraphRequest)

    def make(new: uuid.UUID) -> Patch:
        return Patch(id=new, by=principal.name, operations=tuple(wanted.operations))

    told = [_told(operation) for operation in wanted.operations]
    check = alive(services, principal, run_id)
    return await perform(request, services, principal, run_id, make, {"operations": told}, check)


def _told(operation: dict[str, Any]) -> dict[str, JsonValue]:
    """An operation for the audit log: what was done to which step, without values."""
    step = operation.get("step")
    step_id = operation.get("id") if not isinstance(step, dict) else step.get("id")
    return {"op": str(operation.get("op"))[:64], "step": str(step_id)[:64]}


@router.put(
    "/{run_id}/breakpoints",
    responses=ANSWERS,
    openapi_extra=request_body(BreakpointsRequest, {"steps": ["charge"]}),
    summary="Stop before these steps, instead of those that were named before",
)
async def set_breakpoints(run_id: RunPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, BreakpointsRequest)

    def make(new: uuid.UUID) -> Breakpoints:
        return Breakpoints(id=new, by=principal.name, steps=tuple(dict.fromkeys(wanted.steps)))

    async def check() -> None:
        await not_ended(services, principal, run_id)
        known = state_of(await stored_run(services, principal, run_id)).steps
        faults = [_unknown(index, one, known) for index, one in enumerate(wanted.steps) if one not in known]
        if faults:
            raise Invalid(faults[0].message, faults)

    return await perform(request, services, principal, run_id, make, {"steps": list(wanted.steps)}, check)


def _unknown(index: int, step_id: str, known: dict[str, Any]) -> Fault:
    suggestion = nearest(step_id, known)
    said = f"There is no step `{step_id}`{did_you_mean(suggestion) or '.'}"
    return Fault(f"$.steps[{index}]", "unknown_step", said, suggestion)


@router.post(
    "/{run_id}/continue",
    responses=ANSWERS,
    openapi_extra=request_body(ContinueRequest, {"mode": "step"}),
    summary="Go on from all breakpoints at which the run stands",
)
async def continue_run(run_id: RunPath, request: Request, principal: Editor, services: ServicesDep) -> Response:
    wanted = await read_model(request, ContinueRequest, {})

    def make(new: uuid.UUID) -> Proceed:
        return Proceed(id=new, by=principal.name, mode=wanted.mode)

    check = alive(services, principal, run_id)
    return await perform(request, services, principal, run_id, make, {"mode": wanted.mode}, check)
