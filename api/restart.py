"""Restarting: a new run like one that was there before, from the beginning or from a step."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from api.models.operation import RestartRequest
from api.services import Services
from core.account import Principal
from core.errors import Fault, Invalid
from core.ids import RunId
from core.journal import StoredRun
from core.json import JsonValue
from core.run import RunOptions, RunRecord, StepStatus
from engine.graph import Graph
from engine.history import as_it_is_now, state_of
from engine.input_check import input_faults
from engine.program import Program
from engine.state import RunState
from engine.wording import did_you_mean, nearest


@dataclass(frozen=True, slots=True)
class Restart:
    """A run that can be started: all but its id."""

    program: Program
    workflow: str
    workflow_version: int
    input: JsonValue
    options: RunOptions


async def prepare_restart(services: Services, stored: StoredRun, wanted: RestartRequest) -> Restart:
    """Find out what the new run will be.

    With the `same` version it has the graph that the other run had at last, patches included, and the same versions
    of nodes. Results are taken over by the ids of steps, also into a newer version.

    Raises:
        Invalid: the input does not fit, or there is no such step.
        NotFound: the workflow, or a version of a node, is gone.
    """
    record = stored.record
    state = state_of(stored)
    name, version = record.workflow, record.workflow_version
    spec = state.spec
    if wanted.version == "same":
        # A large one takes a second or more: not on the event loop.
        program = await asyncio.to_thread(services.programs.of_run, as_it_is_now(stored, state))
    else:
        workflow, program = await services.programs.current(record.workspace, str(record.workflow_id))
        name, version, spec = workflow.name, workflow.version, None
    given = wanted.input if "input" in wanted.model_fields_set else record.input
    faults = input_faults(program.spec.inputs, given)
    if faults:
        raise Invalid(f"the input does not fit the workflow {name!r}: {faults[0].message}", faults)
    options = RunOptions(
        priority=state.options.priority,
        session=state.options.session,
        restarted_from=record.id,
        restored={} if wanted.from_step is None else _restored(program.graph, state, wanted.from_step),
        spec=spec,
    )
    return Restart(program, name, version, given, options)


def restart_run(services: Services, principal: Principal, stored: StoredRun, restart: Restart, run_id: RunId) -> None:
    """Start the new run. Raises Unavailable when the engine does not accept runs at this moment."""
    old = stored.record
    record = RunRecord(
        id=run_id,
        workspace=old.workspace,
        workflow_id=old.workflow_id,
        workflow=restart.workflow,
        workflow_version=restart.workflow_version,
        created_at=services.clock.now(),
        input=restart.input,
        context=old.context,
        pins=restart.program.pins,
        unit_key=old.unit_key or str(old.id),  # the same unit again, so it keeps its arms
        created_by=principal.name,
    )
    services.engine.accept(record, restart.program, restart.options)


def _restored(graph: Graph, state: RunState, from_step: str) -> dict[str, dict[str, JsonValue]]:
    """Results to take over: of steps that neither are `from_step` nor wait for it, or for others that run again."""
    if from_step not in graph.nodes:
        suggestion = nearest(from_step, graph.nodes)
        said = f"There is no step `{from_step}`{did_you_mean(suggestion) or '.'}"
        raise Invalid(said, [Fault("$.from_step", "unknown_step", said, suggestion)])
    again = [from_step, *(one for one in graph.nodes if not _usable(graph, state, one))]
    running = _with_dependents(graph, again)
    return {
        one: {"status": step.status.value, "output": step.output, "error": step.error}
        for one in graph.order
        if one not in running and (step := state.steps[one])
    }


def _usable(graph: Graph, state: RunState, step_id: str) -> bool:
    """Whether a step has a result that a run can go on with."""
    step = state.steps.get(step_id)
    if step is None:
        return False
    if step.status is StepStatus.FAILED:
        links = graph.nodes[step_id].links
        return links.continues or links.fallback is not None
    return step.status in (StepStatus.COMPLETED, StepStatus.SKIPPED)


def _with_dependents(graph: Graph, steps: Collection[str]) -> set[str]:
    found = set(steps)
    waiting = list(steps)
    for one in waiting:
        for dependent in graph.nodes[one].dependents:
            if dependent not in found:
                found.add(dependent)
                waiting.append(dependent)
    return found
