"""Compiled workflows, kept while they are used: compiling takes longer than running a small one."""

import asyncio
import uuid
from collections import OrderedDict
from dataclasses import dataclass

from core.clock import Clock
from core.errors import NotFound
from core.ids import WorkflowId, Workspace
from core.journal import StoredRun
from core.spec import WorkflowSpec
from engine.node.registry import NodeRegistry
from engine.program import Program, compile_program
from infra.postgres.workflows import StoredWorkflow, Workflows

_FRESH_SECONDS = 1.0
"""How long another process's change of a workflow may stay unseen."""
_KEPT = 1_000


@dataclass(slots=True)
class _Entry:
    workflow: StoredWorkflow
    program: Program
    until: float


class Programs:
    """Programs by workflow, at their current version."""

    def __init__(self, workflows: Workflows, registry: NodeRegistry, clock: Clock) -> None:
        self._workflows = workflows
        self._registry = registry
        self._clock = clock
        self._entries: OrderedDict[tuple[Workspace, str], _Entry] = OrderedDict()
        self._changes = 0

    async def current(self, workspace: Workspace, reference: str) -> tuple[StoredWorkflow, Program]:
        """The workflow of an id or a name, and its program. Raises NotFound."""
        key = (workspace, reference)
        now = self._clock.monotonic()
        entry = self._entries.get(key)
        if entry is not None and entry.until > now:
            return entry.workflow, entry.program
        changes = self._changes
        workflow = await find_workflow(self._workflows, workspace, reference)
        if entry is not None and (entry.workflow.id, entry.workflow.version) == (workflow.id, workflow.version):
            entry.until = now + _FRESH_SECONDS
            return entry.workflow, entry.program
        # A large one takes a second or more: not on the event loop.
        program = await asyncio.to_thread(compile_program, workflow.spec, self._registry.resolve, {})
        if changes != self._changes:
            # What was read may be older than a change that has been answered meanwhile: use it, but do not keep it.
            return workflow, program
        self._entries[key] = _Entry(workflow, program, now + _FRESH_SECONDS)
        self._entries.move_to_end(key)
        if len(self._entries) > _KEPT:
            self._entries.popitem(last=False)
        return workflow, program

    def changed(self) -> None:
        """A workflow has changed here: look again which version is current."""
        self._changes += 1
        for entry in self._entries.values():
            entry.until = 0.0

    def of_run(self, stored: StoredRun) -> Program:
        """The program of a run that exists already, with the node versions that it was pinned to. Raises NotFound."""
        if stored.spec is None:
            raise NotFound(f"the workflow version of run {stored.record.id} is gone")
        spec = WorkflowSpec.model_validate(stored.spec)
        return compile_program(spec, self._registry.resolve, stored.record.pins)


async def find_workflow(workflows: Workflows, workspace: Workspace, reference: str) -> StoredWorkflow:
    """A workflow by its id or its name. Raises NotFound."""
    try:
        workflow_id = WorkflowId(uuid.UUID(reference))
    except ValueError:
        return await workflows.get_by_name(workspace, reference)
    try:
        return await workflows.get(workspace, workflow_id)
    except NotFound:  # a name may look like an id
        return await workflows.get_by_name(workspace, reference)
