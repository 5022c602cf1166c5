"""How a run fails: at once, or after another workflow has tried to make up for it."""

from functools import partial
from typing import Any

from core.errors import RefluxError
from core.ids import RunId
from core.run import EventType, Parent, RunStatus
from engine.actor.children import MAX_DEPTH, Children, child_of, depth_of, end_of
from engine.actor.host import RunHost
from engine.patience import patiently
from engine.ports import FoundWorkflow
from engine.state import RunState


class Rescue:
    """See the module: `policies.fallback_workflow`."""

    def __init__(self, actor: RunHost, children: Children) -> None:
        self._actor = actor
        self._children = children
        self._error: dict[str, Any] | None = None
        self._again = False

    @property
    def wanted(self) -> bool:
        """Whether the fallback is to be started."""
        return self._error is not None or self._again

    def fail(self, error: dict[str, Any], reason: str) -> None:
        """The run cannot go on."""
        actor = self._actor
        if actor.state.status.final or actor.state.failing is not None or self._error is not None:
            return
        actor.cancel_attempts(reason)
        if actor.program.spec.policies.fallback_workflow is None or actor.env.parts.workflows is None:
            actor.log.emit(EventType.RUN_FAILED, data={"error": error})
        else:
            self._error = error

    async def start(self) -> None:
        """Start the workflow that makes up for this one."""
        if self._again:
            self._again = False
            await self.resume(False)
            return
        actor, error = self._actor, self._error
        self._error = None
        assert error is not None
        name = actor.program.spec.policies.fallback_workflow
        workflows = actor.env.parts.workflows
        assert name is not None
        assert workflows is not None
        state = actor.state
        if depth_of(state) >= MAX_DEPTH:
            self._in_vain(error, f"runs start runs more than {MAX_DEPTH} deep")
            return
        try:
            one = await patiently(partial(workflows.find, state.record.workspace, name), "a workflow")
        except RefluxError as missing:
            self._in_vain(error, missing.detail)
            return
        run_id = RunId(actor.env.clock.new_id())
        data = {"error": error, "run_id": str(run_id), "workflow": one.name, "version": one.version}
        actor.log.emit(EventType.FALLBACK_STARTED, data=data)
        actor.set_deadline()
        self._launch(run_id, one, error)

    def _in_vain(self, error: dict[str, Any], why: str) -> None:
        said = {**error, "fallback_error": f"the fallback workflow: {why}"}
        self._actor.log.emit(EventType.RUN_FAILED, data={"error": said})

    async def resume(self, exists: bool) -> None:
        """Take up a run whose fallback is under way, or was promised."""
        actor, state = self._actor, self._actor.state
        if state.fallback is None or state.failing is None or exists:
            return
        workflows = actor.env.parts.workflows
        if workflows is None:
            self._in_vain(state.failing, "this engine cannot start other workflows")
            return
        reference = f"{state.fallback.workflow}@{state.fallback.version}"
        try:
            one = await patiently(partial(workflows.find, state.record.workspace, reference), "a workflow")
        except RefluxError as missing:
            self._in_vain(state.failing, missing.detail)
            return
        self._launch(state.fallback.id, one, state.failing)

    def _launch(self, run_id: RunId, one: FoundWorkflow, error: dict[str, Any]) -> None:
        actor = self._actor
        state = actor.state
        context = {
            **state.record.context,
            "fallback_for": str(state.record.id),
            "fallback_step": str(error.get("step", "")),
            "fallback_error": str(error.get("class", "")),
        }
        parent = Parent(state.record.id, "", depth=depth_of(state) + 1)
        found = (one.id, one.name, one.version, one.program)
        record, options = child_of(
            state, run_id, found, state.record.input, parent, actor.env.clock.now(), context=context
        )
        self._children.launch(actor.log.flush(), record, one.program, options)

    def outstanding(self) -> tuple[RunId, Parent] | None:
        """The fallback, while it is under way."""
        state = self._actor.state
        if state.fallback is None or state.fallback.status.final or state.status.final:
            return None
        return state.fallback.id, Parent(state.record.id, "")

    def missing(self, run_id: RunId) -> None:
        """The fallback was started, and is nowhere: its first write did not come through."""
        under_way = self.outstanding()
        self._again = under_way is not None and under_way[0] == run_id and not self._children.begins(run_id)

    def ended(self, child: RunState) -> None:
        """The fallback is over: the run ends as it did."""
        actor, state = self._actor, self._actor.state
        if state.fallback is None or state.fallback.id != child.record.id or state.status.final:
            return
        error = state.failing or {}
        actor.log.emit(EventType.CHILD_ENDED, data=end_of(child, 0), payload=child.outputs)
        told = {**error, "fallback_run": str(child.record.id)}
        if child.status is RunStatus.COMPLETED:
            data = {"error": told, "fallback_run": str(child.record.id)}
            actor.log.emit(EventType.RUN_COMPLETED, data=data, payload=child.outputs)
        else:
            actor.log.emit(EventType.RUN_FAILED, data={"error": told})

    def cancel(self, reason: str) -> None:
        """The run is cancelled, and its fallback with it."""
        under_way = self.outstanding()
        self._error, self._again = None, False
        if under_way is not None:
            self._children.cancel_child(under_way[0], reason)
