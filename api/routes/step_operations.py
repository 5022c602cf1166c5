"""Operating one step of a run: re-drive, go on from a breakpoint, approve, reject, submit, resolve."""

import uuid

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.auth import Editor, ServicesDep
from api.body import read_model
from api.models.operation import DecideRequest, RedriveRequest, ResolveRequest, StepContinueRequest, SubmitRequest
from api.operation import (
    ANSWERS,
    RunPath,
    StepPath,
    alive,
    alive_with,
    check_may_answer,
    check_step,
    not_ended,
    perform,
    stored_run,
)
from api.request_body import request_body
from api.services import Services
from core.account import Principal
from core.command import Decide, Proceed, Redrive, Resolve
from core.json import JsonValue
from engine.history import state_of

router = APIRouter()
"""A part of `api.routes.operations`."""


@router.post(
    "/{run_id}/steps/{step_id}/redrive",
    responses=ANSWERS,
    openapi_extra=request_body(RedriveRequest, {"downstream": True, "with": {"amount": 12}}),
    summary="Run a step again, alone or with all that depends on it, also when the run has ended",
)
async def redrive_step(
    run_id: RunPath, step_id: StepPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    wanted = await read_model(request, RedriveRequest, {})

    def make(new: uuid.UUID) -> Redrive:
        return Redrive(id=new, by=principal.name, step_id=step_id, downstream=wanted.downstream, with_=wanted.with_)

    async def check() -> None:
        check_step(state_of(await stored_run(services, principal, run_id)), step_id)

    detail: dict[str, JsonValue] = {
        "step": step_id,
        "downstream": wanted.downstream,
        "edited": sorted(wanted.with_ or ()),
    }
    return await perform(request, services, principal, run_id, make, detail, check)


@router.post(
    "/{run_id}/steps/{step_id}/continue",
    responses=ANSWERS,
    openapi_extra=request_body(StepContinueRequest, {"with": {"amount": 12}, "mode": "continue"}),
    summary="Go on from the breakpoint before a step, with other parameters if wished",
)
async def continue_step(
    run_id: RunPath, step_id: StepPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    wanted = await read_model(request, StepContinueRequest, {})

    def make(new: uuid.UUID) -> Proceed:
        return Proceed(id=new, by=principal.name, step_id=step_id, with_=wanted.with_, mode=wanted.mode)

    detail: dict[str, JsonValue] = {"step": step_id, "mode": wanted.mode, "edited": sorted(wanted.with_ or ())}
    check = alive_with(services, principal, run_id, step_id)
    return await perform(request, services, principal, run_id, make, detail, check)


@router.post(
    "/{run_id}/steps/{step_id}/approve",
    responses=ANSWERS,
    openapi_extra=request_body(DecideRequest, {"comment": "the customer is known"}),
    summary="Approve what a step waits for",
)
async def approve_step(
    run_id: RunPath, step_id: StepPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    return await _decide(run_id, step_id, request, principal, services, True)


@router.post(
    "/{run_id}/steps/{step_id}/reject",
    responses=ANSWERS,
    openapi_extra=request_body(DecideRequest, {"comment": "the amount is wrong"}),
    summary="Reject what a step waits for",
)
async def reject_step(
    run_id: RunPath, step_id: StepPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    return await _decide(run_id, step_id, request, principal, services, False)


async def _decide(
    run_id: uuid.UUID, step_id: str, request: Request, principal: Principal, services: Services, approved: bool
) -> Response:
    wanted = await read_model(request, DecideRequest, {})

    def make(new: uuid.UUID) -> Decide:
        return Decide(
            id=new,
            by=principal.name,
            step_id=step_id,
            item=wanted.item,
            approved=approved,
            payload=wanted.payload,
            comment=wanted.comment,
            role=principal.role,
        )

    async def check() -> None:
        await not_ended(services, principal, run_id)
        state = state_of(await stored_run(services, principal, run_id))
        # A form may be turned down, too.
        kinds = ("approval",) if approved else ("approval", "form")
        check_may_answer(principal, state, step_id, wanted.item, kinds)

    detail: dict[str, JsonValue] = {"step": step_id, "approved": approved, "comment": wanted.comment}
    return await perform(request, services, principal, run_id, make, detail, check)


@router.post(
    "/{run_id}/steps/{step_id}/submit",
    responses=ANSWERS,
    openapi_extra=request_body(SubmitRequest, {"payload": {"address": "1 Main Street"}}),
    summary="Fill in the form that a step waits for",
)
async def submit_step(
    run_id: RunPath, step_id: StepPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    wanted = await read_model(request, SubmitRequest)

    def make(new: uuid.UUID) -> Decide:
        return Decide(
            id=new,
            by=principal.name,
            step_id=step_id,
            item=wanted.item,
            approved=True,
            payload=wanted.payload,
            role=principal.role,
        )

    async def check() -> None:
        await not_ended(services, principal, run_id)
        state = state_of(await stored_run(services, principal, run_id))
        check_may_answer(principal, state, step_id, wanted.item, ("form",))

    return await perform(request, services, principal, run_id, make, {"step": step_id}, check)


@router.post(
    "/{run_id}/steps/{step_id}/resolve",
    responses=ANSWERS,
    openapi_extra=request_body(ResolveRequest, {"outcome": "succeeded", "output": {"id": "ch_1"}}),
    summary="Say what became of an attempt whose outcome is unknown",
)
async def resolve_step(
    run_id: RunPath, step_id: StepPath, request: Request, principal: Editor, services: ServicesDep
) -> Response:
    wanted = await read_model(request, ResolveRequest)

    def make(new: uuid.UUID) -> Resolve:
        return Resolve(
            id=new,
            by=principal.name,
            step_id=step_id,
            item=wanted.item,
            outcome=wanted.outcome,
            output=wanted.output,
        )

    detail: dict[str, JsonValue] = {"step": step_id, "outcome": wanted.outcome}
    check = alive(services, principal, run_id)
    return await perform(request, services, principal, run_id, make, detail, check)
