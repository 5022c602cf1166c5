"""Executing a workflow: check the input, accept the run durably, and wait for its end if asked to."""

import asyncio
import uuid
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from api.answer import json_response
from api.body import parse, read_json
from api.replay import once
from api.run_view import run_json
from api.wiring import Services
from core.account import Principal
from core.errors import Invalid, Unavailable
from core.ids import RunId
from core.json import JsonValue
from core.run import RunRecord
from engine.history import state_of
from engine.input_check import input_faults

ShortText = Annotated[str, StringConstraints(max_length=256)]


class ExecuteRequest(BaseModel):
    """What a run is given."""

    model_config = ConfigDict(extra="forbid")

    input: JsonValue = Field(None, description="Must fit the workflow's `inputs`.")
    context: dict[ShortText, ShortText | bool | int | float] = Field(
        default_factory=dict, max_length=64, description="The situation, for routing and analysis: not a secret."
    )
    unit_key: ShortText = Field("", description="What sticky decisions are made for, such as a customer's id.")


async def execute(request: Request, services: Services, principal: Principal, reference: str, wait: float) -> Response:
    """Run a workflow.

    Raises:
        Invalid: the input does not fit the workflow's schema.
        NotFound: there is no such workflow.
        Unavailable: the engine does not accept runs at this moment.
    """
    value = await read_json(request)
    # The one hot path: the usual small body needs no model.
    wanted = ExecuteRequest() if value is None else parse(ExecuteRequest, value)
    workflow, program = await services.programs.current(principal.workspace, reference)
    given = {} if wanted.input is None else wanted.input
    faults = input_faults(program.spec.inputs, given)
    if faults:
        raise Invalid(f"the input does not fit the workflow {workflow.name!r}: {faults[0].message}", faults)

    async def write(reserved: uuid.UUID | None) -> Response:
        record = RunRecord(
            id=RunId(reserved or services.clock.new_id()),
            workspace=principal.workspace,
            workflow_id=workflow.id,
            workflow=workflow.name,
            workflow_version=workflow.version,
            created_at=services.clock.now(),
            input=given,
            context={key: _text(one) for key, one in wanted.context.items()},
            pins=program.pins,
            unit_key=wanted.unit_key,
            created_by=principal.name,
        )
        actor = services.engine.accept(record, program)
        return await answer(services, actor.state.record.id, wait)

    async def again(reserved: uuid.UUID | None) -> Response:
        assert reserved is not None
        if services.engine.actor(RunId(reserved)) or await services.journal.load(RunId(reserved)):
            return await answer(services, RunId(reserved), wait)
        return await write(reserved)

    return await once(request, services, principal, write, again)


async def answer(services: Services, run_id: RunId, wait: float) -> Response:
    """The run as it is durably, after at most `wait` seconds."""
    actor = services.engine.actor(run_id)
    if actor is not None:
        if wait > 0:
            await asyncio.wait((actor.done,), timeout=wait)
            if actor.done.done() and not actor.done.cancelled():
                return json_response(run_json(actor.done.result()))
        await actor.accepted()
    stored = await services.journal.load(run_id)
    if stored is None:
        raise Unavailable("the run is not there yet; ask again in a moment")
    state = state_of(stored)
    return json_response(run_json(state), 200 if state.status.final else 202)


def _text(value: str | bool | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
