"""Compiled workflows, kept while they are used: compiling takes longer than running a small one."""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from core.clock import Clock
from core.errors import Fault, Invalid, NotFound
from core.ids import WorkflowId, Workspace
from core.journal import StoredRun
from core.json import JsonValue, canonical
from core.spec import WorkflowSpec
from engine.node.registry import NodeRegistry
from engine.node.version import NodeVersion
from engine.patch import patched
from engine.ports import FoundWorkflow
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
    """Programs of workflows, of runs, and of the bodies of steps. See also `engine.ports.Workflows`."""

    def __init__(self, workflows: Workflows, registry: NodeRegistry, clock: Clock) -> None:
        self._workflows = workflows
        self._registry = registry
        self._clock = clock
        self._entries: OrderedDict[tuple[Workspace, str], _Entry] = OrderedDict()
        self._fixed: OrderedDict[tuple[Any, ...], Program] = OrderedDict()
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
        program = await asyncio.to_thread(compile_program, workflow.spec, self._resolver(workspace), {})
        if changes != self._changes:
            # What was read may be older than a change that has been answered meanwhile: use it, but do not keep it.
            return workflow, program
        self._entries[key] = _Entry(workflow, program, now + _FRESH_SECONDS)
        _keep_newest(self._entries, key)
        return workflow, program

    def changed_here(self) -> None:
        """A workflow has changed: look again which version is current."""
        self._changes += 1
        for entry in self._entries.values():
            entry.until = 0.0

    async def reload(self) -> None:
        """Versions of nodes have come or gone: resolve them anew."""
        self._changes += 1
        self._entries.clear()
        self._fixed.clear()

    def of_run(self, stored: StoredRun) -> Program:
        """The program of a run that exists already, with the node versions that it was pinned to. Raises NotFound."""
        if stored.spec is None:
            raise NotFound(f"the workflow version of run {stored.record.id} is gone")
        spec = WorkflowSpec.model_validate(stored.spec)
        return compile_program(spec, self._resolver(stored.record.workspace), stored.record.pins)

    async def find(self, workspace: Workspace, reference: str) -> FoundWorkflow:
        """See `engine.ports.Workflows.find`."""
        name, _, version = reference.partition("@")
        if not version:
            workflow, program = await self.current(workspace, name)
            return FoundWorkflow(workflow.id, workflow.name, workflow.version, program)
        if not version.isdecimal() or len(version) > 9:
            raise NotFound(f"{reference!r} names no version of a workflow; write for example {name}@3")
        found = await find_workflow(self._workflows, workspace, name)
        workflow = await self._workflows.get(workspace, found.id, int(version))
        key = (workflow.id, workflow.version)
        program = await self._fixed_program(key, workspace, workflow.spec)
        return FoundWorkflow(workflow.id, workflow.name, workflow.version, program)

    async def body(self, workspace: Workspace, document: dict[str, Any]) -> Program:
        """See `engine.ports.Workflows.body`."""
        try:
            spec = WorkflowSpec.model_validate(document)
        except ValidationError as error:
            faults = [Fault("$." + ".".join(map(str, one["loc"])), "bad_value", one["msg"]) for one in error.errors()]
            raise Invalid("the steps inside the step are not valid", faults) from None
        return await self._fixed_program((workspace, canonical(document)), workspace, spec)

    async def changed(
        self,
        workspace: Workspace,
        document: dict[str, Any],
        operations: Sequence[JsonValue],
        started: frozenset[str],
        pins: Mapping[str, str],
    ) -> tuple[dict[str, Any], Program, frozenset[str]]:
        """See `engine.ports.Workflows.changed`."""

        def change() -> tuple[dict[str, Any], Program, frozenset[str]]:
            result = patched(document, operations, started, self._registry.within(workspace), pins)
            if isinstance(result, list):
                raise Invalid("the graph cannot be changed like this", result)
            program = compile_program(result.spec, self._resolver(workspace), result.pins)
            return result.document, program, frozenset((*result.removed, *result.changed))

        return await asyncio.to_thread(change)

    async def _fixed_program(self, key: tuple[Any, ...], workspace: Workspace, spec: WorkflowSpec) -> Program:
        program = self._fixed.get(key)
        if program is None:
            program = await asyncio.to_thread(compile_program, spec, self._resolver(workspace), {})
            self._fixed[key] = program
        _keep_newest(self._fixed, key)
        return program

    def _resolver(self, workspace: Workspace) -> Callable[[str], NodeVersion]:
        # Asked anew each time: what a workspace has may be another object by then.
        return lambda reference: self._registry.within(workspace).resolve(reference)


def _keep_newest(entries: OrderedDict[Any, Any], key: Any) -> None:
    entries.move_to_end(key)
    if len(entries) > _KEPT:
        entries.popitem(last=False)


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
