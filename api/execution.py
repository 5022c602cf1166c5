"""Executing a workflow: check the input, accept the run durably, and wait for its end if asked to."""

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Annotated

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from api.answer import json_response
from api.body import parse, read_json
from api.replay import once
from api.run_view import run_json
from api.services import Services
from core.account import Principal
from core.errors import Fault, Invalid, Unavailable
from core.ids import RunId
from core.json import JsonValue
from core.run import DEFAULT_PRIORITY, PLAIN, RunOptions, RunRecord
from engine.history import state_of
from engine.input_check import input_faults
from engine.program import Program
from engine.wording import nearest

_log = structlog.get_logger(__name__)

ShortText = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")]


LONGEST_WAIT = 300
"""Seconds that a caller may wait for the end of a run."""


class ExecuteRequest(BaseModel):
    """What a run is given."""

    model_config = ConfigDict(extra="forbid")

    input: JsonValue = Field(None, description="Must fit the workflow's `inputs`.")
    context: dict[ShortText, ShortText | bool | int | float] = Field(
        default_factory=dict, max_length=64, description="The situation, for routing and analysis: not a secret."
    )
    unit_key: ShortText = Field("", description="What sticky decisions are made for, such as a customer's id.")
    breakpoints: tuple[ShortText, ...] = Field((), max_length=200, description="Steps to stop before.")
    priority: int | None = Field(None, ge=0, le=9, description="Instead of the workflow's; 9 is most urgent.")
    session: ShortText = Field("", description="Whose variables of the scope `session` the run sees.")


async def execute(request: Request, services: Services, principal: Principal, reference: str) -> Response:
    """Run a workflow.

    Raises:
        Invalid: the input does not fit the workflow's schema.
        NotFound: there is no such workflow.
        Unavailable: the engine does not accept runs at this moment.
    """
    wait = _seconds(request.query_params.get("wait", "0"))
    value = await read_json(request)
    # The one hot path: the usual small body needs no model.
    wanted = ExecuteRequest() if value is None else parse(ExecuteRequest, value)
    workflow, program = await services.programs.current(principal.workspace, reference)
    given = {} if wanted.input is None else wanted.input
    faults = input_faults(program.spec.inputs, given)
    if faults:
        raise Invalid(f"the input does not fit the workflow {workflow.name!r}: {faults[0].message}", faults)

    options = _options(wanted, program)

    def write(reserved: uuid.UUID | None) -> Awaitable[Response]:
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
        services.engine.accept(record, program, options)
        return answer(services, record.id, wait)

    async def again(reserved: uuid.UUID | None) -> Response:
        assert reserved is not None
        if services.engine.actor(RunId(reserved)) or await services.journal.load(RunId(reserved)):
            return await answer(services, RunId(reserved), wait)
        if services.engine.actor(RunId(reserved)):  # another repetition was faster
            return await answer(services, RunId(reserved), wait)
        return await write(reserved)

    return await once(request, services, principal, write, again)


def _options(wanted: ExecuteRequest, program: Program) -> RunOptions:
    faults = [
        Fault(
            f"$.breakpoints[{index}]", "unknown_step", f"The workflow has no step `{one}`.", nearest(one, program.steps)
        )
        for index, one in enumerate(wanted.breakpoints)
        if one not in program.steps
    ]
    if faults:
        raise Invalid(faults[0].message, faults)
    priority = program.spec.policies.priority if wanted.priority is None else wanted.priority
    if not (wanted.breakpoints or wanted.session) and priority == DEFAULT_PRIORITY:
        return PLAIN
    return RunOptions(breakpoints=wanted.breakpoints, priority=priority, session=wanted.session)


async def answer(services: Services, run_id: RunId, wait: float) -> Response:
    """The run as it is durably, after at most `wait` seconds."""
    actor = services.engine.actor(run_id)
    if actor is not None:
        if wait > 0:
            try:
                await asyncio.wait((actor.done,), timeout=wait)
            except asyncio.CancelledError:
                # The server stops. The run is accepted and goes on at the next start: say so instead of hanging up.
                _log.info("a wait ended early, the server stops", run_id=str(run_id))
            if actor.done.done() and not actor.done.cancelled():
                return json_response(run_json(actor.done.result()))
        await actor.accepted()
    stored = await services.journal.load(run_id)
    if stored is None:
        raise Unavailable("the run is not there yet; ask again in a moment")
    state = state_of(stored)
    return json_response(run_json(state), 200 if state.status.final else 202)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if 0 <= seconds <= LONGEST_WAIT:
        return seconds
    sentence = f"`wait` must be a number of seconds from 0 to {LONGEST_WAIT}"
    raise Invalid(sentence, [Fault("$.query.wait", "bad_value", sentence)])


def _text(value: str | bool | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
