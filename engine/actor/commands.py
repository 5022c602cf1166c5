"""What each command does to a run."""

from collections import deque
from collections.abc import Callable
from typing import Any

from core.command import (
    Breakpoints,
    Cancel,
    Command,
    Decide,
    Pause,
    Proceed,
    Redrive,
    Resolve,
    Resume,
    Signal,
)
from core.errors import Conflict, Fault, Invalid
from core.run import EventType, StepStatus
from engine.actor.conduct import Conduct
from engine.expression.errors import ExpressionError
from engine.expression.template import compile_template
from engine.plan import Move, fatal_step
from engine.wording import did_you_mean, nearest


def perform_command(actor: Conduct, command: Command) -> None:
    """Perform a command. Raises RefluxError, and has changed nothing then."""
    _PERFORM[type(command)](actor, command)


def _told(command: Command, **more: Any) -> dict[str, Any]:
    return {"command": str(command.id), "by": command.by, **more}


def _cancel(actor: Conduct, command: Cancel) -> None:
    reason = command.reason or f"cancelled by {command.by or 'somebody'}"
    actor.log.emit(EventType.CANCEL_REQUESTED, data=_told(command, reason=reason))
    actor.cancel(reason)


def _pause(actor: Conduct, command: Pause) -> None:
    if actor.state.paused:
        raise Conflict("the run is paused already")
    actor.log.emit(EventType.RUN_PAUSED, data=_told(command, reason=command.reason))
    actor.set_deadline()


def _resume(actor: Conduct, command: Resume) -> None:
    if not actor.state.paused:
        raise Conflict("the run is not paused")
    actor.log.emit(EventType.RUN_RESUMED, data=_told(command))
    actor.set_timers()
    actor.set_deadline()


def _resolve(actor: Conduct, command: Resolve) -> None:
    step = actor.state.steps.get(command.step_id)
    task = step.tasks.get(command.item) if step else None
    if task is None or task.status is not StepStatus.OUTCOME_UNKNOWN:
        raise Conflict(f"step {command.step_id!r} does not wait for its outcome to be told")
    data = _told(command, outcome=command.outcome)
    actor.log.emit(EventType.STEP_RESOLVED, command.step_id, command.item, task.attempts, data, command.output)
    if command.outcome == "retry":
        actor.again.append((command.step_id, command.item))
    else:
        actor.task_settled(command.step_id, command.item)


def _signal(actor: Conduct, command: Signal) -> None:
    actor.waits.signal(command)


def _decide(actor: Conduct, command: Decide) -> None:
    if not actor.expansion.decide(command):
        actor.waits.decide(command)


def _redrive(actor: Conduct, command: Redrive) -> None:
    state, step_id = actor.state, command.step_id
    _known_steps(actor, (step_id,), "$.step")
    if state.failing is not None and not state.status.final:
        raise Conflict("the run has failed, and another workflow stands in for it; wait until that has ended")
    status = state.steps[step_id].status
    if status in (StepStatus.RUNNING, StepStatus.WAITING):
        raise Conflict(f"step {step_id!r} is under way; cancel the run, or wait until the step has ended")
    if status is StepStatus.QUEUED and not state.status.final:
        raise Conflict(f"step {step_id!r} has not run yet")
    edited = _edited(actor, step_id, command.with_)
    again = {step_id}
    if command.downstream:
        again |= _downstream(actor, step_id)
    if state.status.final:
        # What was cut off when the run ended has never come to its end.
        again |= _cut_off(actor, again)
    if not state.status.final:
        actor.cancel_attempts(f"{step_id} runs again", again)
    for one in again:
        actor.elements.pop(one, None)
    actor.again = deque(key for key in actor.again if key[0] not in again)
    steps = [one for one in actor.program.graph.order if one in again]
    data = _told(command, steps=steps, downstream=command.downstream)
    if state.status.final and actor.program.limit is not None and actor.env.parts.limiter is not None:
        data["queued"] = {"reason": "concurrency_limit"}
    actor.log.emit(EventType.STEP_REDRIVEN, step_id, data=data, payload=edited)
    actor.set_deadline()
    actor.recreate_moves()


def _cut_off(actor: Conduct, again: set[str]) -> set[str]:
    """Steps that a run's end has cut off, but for those behind a failure that stands: it ends the run once more."""
    state, graph = actor.state, actor.program.graph
    standing = [one for one in state.steps if one not in again and fatal_step(graph, state, (one,)) is not None]
    behind: set[str] = set()
    for one in standing:
        behind |= _downstream(actor, one)
    return {one for one, step in state.steps.items() if step.status is StepStatus.CANCELLED} - behind


def _downstream(actor: Conduct, step_id: str) -> set[str]:
    nodes = actor.program.graph.nodes
    found: set[str] = set()
    left = [step_id]
    while left:
        for one in nodes[left.pop()].dependents:
            if one not in found:
                found.add(one)
                left.append(one)
    return found


def _breakpoints(actor: Conduct, command: Breakpoints) -> None:
    _known_steps(actor, command.steps, "$.steps")
    actor.log.emit(EventType.BREAKPOINTS_SET, data=_told(command, steps=list(command.steps)))


def _proceed(actor: Conduct, command: Proceed) -> None:
    standing = [
        one
        for one, step in actor.state.steps.items()
        if step.waiting is not None and step.waiting.get("reason") == "breakpoint"
    ]
    if command.step_id is not None:
        _known_steps(actor, (command.step_id,), "$.step")
        if command.step_id not in standing:
            raise Conflict(f"step {command.step_id!r} does not stand at a breakpoint")
        standing = [command.step_id]
    if not standing:
        raise Conflict("no step of this run stands at a breakpoint")
    if command.with_ and len(standing) > 1:
        raise Conflict(f"{len(standing)} steps stand at breakpoints; say which one gets the edited parameters")
    edited = _edited(actor, standing[0], command.with_)
    for step_id in standing:
        data = _told(command, mode=command.mode)
        actor.log.emit(EventType.BREAKPOINT_PASSED, step_id, data=data, payload=edited)
        actor.ready.append((step_id, Move.START))


def _known_steps(actor: Conduct, step_ids: tuple[str, ...], path: str) -> None:
    faults = []
    for step_id in step_ids:
        if step_id not in actor.state.steps:
            suggestion = nearest(step_id, actor.state.steps)
            said = f"The run has no step `{step_id}`{did_you_mean(suggestion)}"
            faults.append(Fault(path, "unknown_step", said, suggestion))
    if faults:
        raise Invalid(faults[0].message, faults)


def _edited(actor: Conduct, step_id: str, with_: dict[str, Any] | None) -> dict[str, Any] | None:
    """Edited parameters, if they can be used."""
    if not with_:
        return None
    manifest = actor.program.steps[step_id].node.manifest
    known = manifest.input_schema.get("properties", {})
    faults = []
    for name, value in with_.items():
        path = f"$.with.{name}"
        if manifest.input_schema.get("additionalProperties") is False and name not in known:
            suggestion = nearest(name, known)
            said = f"{manifest.name} has no parameter `{name}`{did_you_mean(suggestion)}"
            faults.append(Fault(path, "unknown_parameter", said, suggestion))
            continue
        try:
            template = compile_template(value)
        except ExpressionError as error:
            faults.append(Fault(path, "bad_expression", f"Not a usable expression: {error}"))
            continue
        if template.secret_names and name not in manifest.secret_fields:
            faults.append(Fault(path, "secret_not_allowed", f"Secrets cannot stand in `{name}`"))
    if faults:
        raise Invalid("the edited parameters cannot be used", faults)
    return with_


_PERFORM: dict[type, Callable[[Conduct, Any], None]] = {
    Cancel: _cancel,
    Pause: _pause,
    Resume: _resume,
    Resolve: _resolve,
    Signal: _signal,
    Decide: _decide,
    Redrive: _redrive,
    Breakpoints: _breakpoints,
    Proceed: _proceed,
}
