"""Runs that a step starts and waits for."""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from core.command import Cancel
from core.errors import ErrorClass, Invalid, NotFound, RefluxError, StepError
from core.ids import RunId, WorkflowId
from core.journal import Fenced
from core.json import JsonValue
from core.run import EventType, Parent, RunOptions, RunRecord, RunStatus, StepStatus
from core.trace import TraceStatus
from engine.actor.host import RunHost
from engine.attempt import Attempt
from engine.commit import Commit
from engine.composition.compose import composition_of
from engine.composition.composition import ChildAsk, Composition, Progress
from engine.input_check import input_faults
from engine.outcome import error_json
from engine.patience import patiently
from engine.program import Program
from engine.state import ChildRun, RunState
from engine.timers import TaskKey

_log = structlog.get_logger(__name__)

MAX_DEPTH = 20
"""How deep runs may start runs: a workflow that starts itself ends here."""


_MOST_LOST = 5
"""How often a child that never begins is started again."""


@dataclass(slots=True)
class _Group:
    """The children of one attempt.

    Attributes:
        ended: indices to be looked at.
        reserved: ids of children that were promised, and never began.
        lost: how often a child was to begin and did not.
        paused: a delay before the next child is under way; None when it is over.
    """

    attempt: Attempt
    composition: Composition
    ended: set[int] = field(default_factory=set)
    reserved: dict[int, RunId] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    lost: Counter[int] = field(default_factory=Counter)
    delay: asyncio.TimerHandle | None = None
    delayed: bool = False


class Children:
    """See the module."""

    def __init__(self, actor: RunHost) -> None:
        self._actor = actor
        self._groups: dict[TaskKey, _Group] = {}
        self._moving: deque[TaskKey] = deque()
        self._launching: set[asyncio.Task[None]] = set()
        self._awaited: set[RunId] = set()
        self._dropped: set[RunId] = set()

    @property
    def moving(self) -> bool:
        """Whether some composition has to be asked what comes next."""
        return bool(self._moving)

    def begin(self, attempt: Attempt, reserved: dict[int, RunId]) -> None:
        """An attempt begins, or is taken up with children of an earlier owner."""
        key = (attempt.step_id, attempt.item)
        group = _Group(attempt, composition_of(attempt.plan), reserved=reserved)
        for child in self._of(key).values():
            if child.workflow:
                group.versions[child.workflow] = child.version
        self._groups[key] = group
        self._moving.append(key)

    def _of(self, key: TaskKey) -> dict[int, ChildRun]:
        task = self._actor.state.steps[key[0]].tasks[key[1]]
        return task.children if task.children is not None else {}

    async def advance(self) -> None:
        """Ask one composition what comes next, and do it."""
        key = self._moving.popleft()
        group = self._groups.get(key)
        if group is None:
            return
        for ask in await self._promised(key, group):
            await self._start(key, group, ask)
        ended, group.ended = group.ended, set()
        children = self._of(key)
        progress = await group.composition.advance(children, self._evaluate, ended)
        for index in progress.cancel:
            self.cancel_child(children[index].id, "its result is not wanted any more")
        if progress.done is not None or progress.failed is not None:
            self._finish(key, group, progress)
        elif progress.wake_at_delay is not None and not group.delayed:
            self._delay(key, group, progress.wake_at_delay)
        else:
            group.delayed = False
            for ask in progress.start:
                await self._start(key, group, ask)

    async def _promised(self, key: TaskKey, group: _Group) -> list[ChildAsk]:
        """What the children that never began were to be given: asked of a composition that has not seen them."""
        if not group.reserved:
            return []
        begun = {index: child for index, child in self._of(key).items() if index not in group.reserved}
        progress = await composition_of(group.attempt.plan).advance(begun, self._evaluate)
        return [ask for ask in progress.start if ask.index in group.reserved]

    def _finish(self, key: TaskKey, group: _Group, progress: Progress) -> None:
        self._close(key)
        attempts = self._actor.env.attempts
        if progress.failed is not None:
            outcome = attempts.ended_now(group.attempt, TraceStatus.ERROR, progress.failed)
        else:
            assert progress.done is not None
            outcome = attempts.gave(group.attempt, progress.done.output)
        self._actor.ended(group.attempt, outcome)

    def _delay(self, key: TaskKey, group: _Group, seconds: float) -> None:
        def over() -> None:
            group.delay, group.delayed = None, True
            self._moving.append(key)

        loop = asyncio.get_running_loop()
        group.delay = loop.call_later(seconds, lambda: self._actor.inbox.post(over))

    async def _evaluate(self, source: str, variables: Any) -> JsonValue:
        return await self._actor.env.attempts.evaluator.evaluate(source, variables)

    # --- one child -----------------------------------------------------------------------------------------------

    async def _start(self, key: TaskKey, group: _Group, ask: ChildAsk) -> None:
        actor = self._actor
        run_id = group.reserved.pop(ask.index, None)
        promised = run_id is not None
        if run_id is None:
            run_id = RunId(actor.env.clock.new_id())
        found: tuple[WorkflowId, str, int, Program] | None = None
        refusal: StepError | None = None
        try:
            found = await self._found(key, group, ask)
        except StepError as error:
            refusal = error
        if not promised:
            data: dict[str, Any] = {"index": ask.index, "run_id": str(run_id), "label": ask.label}
            if found is not None and ask.workflow is not None:
                data["workflow"], data["version"] = ask.workflow, found[2]
                group.versions[ask.workflow] = found[2]
            actor.log.emit(EventType.CHILD_STARTED, key[0], key[1], data=data)
        if found is None:
            assert refusal is not None
            self._never_began(key, group, ask.index, refusal)
            self._moving.append(key)
            return
        state = actor.state
        parent = Parent(state.record.id, key[0], key[1], ask.index, depth_of(state) + 1)
        record, options = child_of(state, run_id, found, ask.input, parent, actor.env.clock.now(), ask)
        self.launch(actor.log.flush(), record, found[3], options)

    async def _found(self, key: TaskKey, group: _Group, ask: ChildAsk) -> tuple[WorkflowId, str, int, Program]:
        """What the child runs: (workflow id, name, version, program). Raises StepError."""
        actor = self._actor
        workflows, record = actor.env.parts.workflows, actor.state.record
        if depth_of(actor.state) >= MAX_DEPTH:
            said = f"runs start runs more than {MAX_DEPTH} deep; does a workflow start itself?"
            raise StepError(ErrorClass.POLICY, said)
        if workflows is None:
            raise StepError(ErrorClass.INTERNAL, "this engine cannot start other workflows")
        try:
            if ask.spec is not None:
                program = await patiently(partial(workflows.body, record.workspace, ask.spec), "a body")
                name = f"{record.workflow}/{key[0]}"
                found = (record.workflow_id, name[:128], record.workflow_version, program)
            else:
                assert ask.workflow is not None
                pinned = group.versions.get(ask.workflow)
                name = ask.workflow.partition("@")[0]
                wanted = ask.workflow if pinned is None else f"{name}@{pinned}"
                one = await patiently(partial(workflows.find, record.workspace, wanted), "a workflow")
                found = (one.id, one.name, one.version, one.program)
        except NotFound as error:
            raise StepError(ErrorClass.INVALID_INPUT, error.detail) from None
        except Invalid as error:
            first = f"{error.faults[0].path}: {error.faults[0].message}" if error.faults else error.detail
            raise StepError(ErrorClass.INVALID_INPUT, f"{ask.label}: {first}") from None
        except RefluxError as error:
            raise StepError(ErrorClass.INTERNAL, error.detail) from None
        faults = input_faults(found[3].spec.inputs, ask.input)
        if faults:
            said = f"{ask.label}: the input does not fit the workflow: {faults[0].path}: {faults[0].message}"
            raise StepError(ErrorClass.INVALID_INPUT, said)
        return found

    def launch(self, commit: Commit | None, record: RunRecord, program: Program, options: RunOptions) -> None:
        """Start a run once the journal knows that it was promised."""
        self._awaited.add(record.id)
        task = asyncio.create_task(self._launch(commit, record, program, options))
        self._launching.add(task)
        task.add_done_callback(self._launching.discard)

    async def _launch(self, commit: Commit | None, record: RunRecord, program: Program, options: RunOptions) -> None:
        try:
            if commit is not None:
                await commit.wait()
            if record.id not in self._dropped:
                await self._actor.env.launcher.launch(record, program, options)
        except (Fenced, RefluxError) as error:
            # The promise is in the journal: whoever takes this run up starts the child.
            _log.warning("a child run waits to be started", run_id=str(record.id), detail=str(error))
        finally:
            self._awaited.discard(record.id)
            self._dropped.discard(record.id)

    def begins(self, run_id: RunId) -> bool:
        """Whether a run is about to be started here."""
        return run_id in self._awaited

    def missing(self, parent: Parent, run_id: RunId) -> None:
        """A child that was started is nowhere: its first write did not come through. It begins again, or has failed."""
        key = (parent.step_id, parent.item)
        group = self._groups.get(key)
        known = self._of(key).get(parent.index) if group is not None else None
        if group is None or known is None or known.id != run_id or known.status.final or run_id in self._awaited:
            return
        group.lost[parent.index] += 1
        if group.lost[parent.index] < _MOST_LOST:
            group.reserved[parent.index] = run_id
        else:
            self._never_began(key, group, parent.index, StepError(ErrorClass.INTERNAL, "the run could not be started"))
        self._moving.append(key)

    def _never_began(self, key: TaskKey, group: _Group, index: int, error: StepError) -> None:
        told = {"index": index, "status": "failed", "error": error_json(error)}
        self._actor.log.emit(EventType.CHILD_ENDED, key[0], key[1], data=told)
        group.ended.add(index)

    def ended(self, parent: Parent, child: RunState) -> None:
        """A child is over. Told more than once, it counts once."""
        key = (parent.step_id, parent.item)
        group = self._groups.get(key)
        if group is None:
            return
        known = self._of(key).get(parent.index)
        if known is None or known.id != child.record.id or known.status.final:
            return
        self._actor.log.emit(
            EventType.CHILD_ENDED, key[0], key[1], data=end_of(child, parent.index), payload=child.outputs
        )
        group.ended.add(parent.index)
        self._moving.append(key)

    def outstanding(self) -> Iterator[tuple[RunId, Parent]]:
        """The children that have not ended, as far as this run knows."""
        run_id = self._actor.state.record.id
        for (step_id, item), group in self._groups.items():
            for index, child in self._of((step_id, item)).items():
                if not child.status.final and index not in group.reserved and child.id not in self._awaited:
                    yield child.id, Parent(run_id, step_id, item, index)

    # --- ends ----------------------------------------------------------------------------------------------------

    def timed_out(self, attempt: Attempt) -> None:
        """The children took longer than the step may."""
        key = (attempt.step_id, attempt.item)
        if key in self._groups:
            self.cancel(attempt, "the step that waits for it has timed out")
            error = StepError(ErrorClass.TIMEOUT, "the runs that this step started did not end in time")
            self._actor.ended(attempt, self._actor.env.attempts.ended_now(attempt, TraceStatus.TIMEOUT, error))

    def cancel(self, attempt: Attempt, reason: str) -> None:
        """The step is given up, and its children with it."""
        key = (attempt.step_id, attempt.item)
        if key not in self._groups:
            return
        for child in self._of(key).values():
            if not child.status.final:
                self.cancel_child(child.id, reason)
        self._close(key)

    def _close(self, key: TaskKey) -> None:
        group = self._groups.pop(key, None)
        if group is not None and group.delay is not None:
            group.delay.cancel()

    def cancel_child(self, run_id: RunId, reason: str) -> None:
        """Cancel a run that was started here, without waiting for it."""
        if run_id in self._awaited:
            self._dropped.add(run_id)
            return
        task = asyncio.create_task(self.cancel_run(run_id, reason))
        self._launching.add(task)
        task.add_done_callback(self._launching.discard)

    async def cancel_run(self, run_id: RunId, reason: str) -> None:
        """Cancel a run wherever it is; one that has ended, or never began, is none of our business."""
        command = Cancel(id=self._actor.env.clock.new_id(), by="its parent", reason=reason)
        try:
            await self._actor.env.launcher.command(run_id, command)
        except RefluxError as error:
            _log.info("a child run was not cancelled", run_id=str(run_id), detail=error.detail)

    async def cancel_abandoned(self) -> None:
        """Cancel the children of steps that have ended: the last owner may not have come to it. Raises Unavailable."""
        abandoned = [
            child.id
            for step in self._actor.state.steps.values()
            for task in step.tasks.values()
            if task.children and task.status is not StepStatus.RUNNING
            for child in task.children.values()
            if not child.status.final
        ]
        if abandoned:
            for run_id in await self._actor.env.launcher.under_way(abandoned):
                self.cancel_child(run_id, "the step that waited for it has ended")

    def abandon(self) -> None:
        """The run is in other hands; its children go on."""
        for key in list(self._groups):
            self._close(key)


def depth_of(state: RunState) -> int:
    """How many runs stand above this one."""
    return state.options.parent.depth if state.options.parent is not None else 0


def child_of(
    state: RunState,
    run_id: RunId,
    found: tuple[WorkflowId, str, int, Program],
    value: JsonValue,
    parent: Parent,
    now: Any,
    ask: ChildAsk | None = None,
    context: dict[str, str] | None = None,
) -> tuple[RunRecord, RunOptions]:
    """A run that `state` starts: in its workspace and situation, under its priority."""
    workflow_id, name, version, program = found
    above = state.record
    given = ask.context if ask is not None else context
    record = RunRecord(
        id=run_id,
        workspace=above.workspace,
        workflow_id=workflow_id,
        workflow=name,
        workflow_version=version,
        created_at=now,
        input=value,
        context=above.context if given is None else given,
        pins=program.pins,
        unit_key=above.unit_key or str(above.id),
        created_by=above.created_by,
        parent_id=above.id,
    )
    options = RunOptions(
        parent=parent,
        spec=ask.spec if ask is not None else None,
        priority=state.options.priority,
        session=state.options.session,
    )
    return record, options


def end_of(child: RunState, index: int) -> dict[str, Any]:
    """What the parent's journal keeps of a child's end."""
    told: dict[str, Any] = {"index": index, "status": child.status.value}
    if child.status is not RunStatus.COMPLETED:
        told["error"] = child.error or {"class": "cancelled", "message": child.cancel_reason or "it was cancelled"}
    if child.cost_usd:
        told["cost_usd"] = child.cost_usd
    return told
