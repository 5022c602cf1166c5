"""Starts runs under ids that are given, once each, in whatever process that happens."""

from api.programs import Programs
from core.clock import Clock
from core.errors import Invalid
from core.ids import RunId, WorkflowId, Workspace
from core.json import JsonValue
from core.run import RunRecord
from engine.input_check import input_faults
from engine.runner import Engine


class RunStarter:
    """See `engine.triggers.ports.Runs`."""

    def __init__(self, engine: Engine, programs: Programs, clock: Clock) -> None:
        self._engine = engine
        self._programs = programs
        self._clock = clock

    async def start_run(
        self,
        workspace: Workspace,
        workflow_id: WorkflowId,
        run_id: RunId,
        input: JsonValue,
        context: dict[str, str],
        unit_key: str,
        created_by: str,
    ) -> None:
        """See `engine.triggers.ports.Runs.start_run`."""
        if self._engine.actor(run_id) is None and await self._engine.existing((run_id,)):
            return
        workflow, program = await self._programs.current(workspace, str(workflow_id))
        faults = input_faults(program.spec.inputs, input)
        if faults:
            raise Invalid(f"the input does not fit the workflow {workflow.name!r}: {faults[0].message}", faults)
        record = RunRecord(
            id=run_id,
            workspace=workspace,
            workflow_id=workflow.id,
            workflow=workflow.name,
            workflow_version=workflow.version,
            created_at=self._clock.now(),
            input=input,
            context=context,
            pins=program.pins,
            unit_key=unit_key,
            created_by=created_by,
        )
        await self._engine.accept(record, program).accepted()
