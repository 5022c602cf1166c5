"""The fold over a run's events. The same events give the same state, always: this is what recovery stands on. Pure."""

from collections.abc import Callable

from core.run import EventType, RunEvent, RunStatus
from engine.fold import attempts, children, course, steps
from engine.state import RunState

__all__ = ["apply"]


def apply(state: RunState, event: RunEvent) -> None:
    """Advance `state` by one event, in place. An event that was applied already is ignored, so replay is idempotent.

    Raises:
        ValueError: the event does not follow the last one.
    """
    if event.seq <= state.seq:
        return
    if event.seq != state.seq + 1:
        raise ValueError(f"event {event.seq} of run {event.run_id} does not follow event {state.seq}")
    state.seq = event.seq
    if "command" in event.data:
        state.commands.add(event.data["command"])
    _HANDLERS[event.type](state, event)
    if not state.status.final and state.started_at is not None:
        state.status = _status(state)


def _status(state: RunState) -> RunStatus:
    if state.queued:
        return RunStatus.QUEUED
    if state.paused_at is not None:
        return RunStatus.PAUSED
    return RunStatus.WAITING if state.asleep and not state.active else RunStatus.RUNNING


_HANDLERS: dict[EventType, Callable[[RunState, RunEvent], None]] = {
    EventType.RUN_CREATED: course.created,
    EventType.RUN_ADMITTED: course.admitted,
    EventType.RUN_RECOVERED: course.recovered,
    EventType.RUN_PAUSED: course.paused,
    EventType.RUN_RESUMED: course.resumed,
    EventType.BREAKPOINTS_SET: course.breakpoints_set,
    EventType.SIGNAL_RECEIVED: course.signal_received,
    EventType.GRAPH_PATCHED: course.graph_patched,
    EventType.VARIABLE_SET: course.variable_set,
    EventType.CANCEL_REQUESTED: course.cancel_requested,
    EventType.FALLBACK_STARTED: course.fallback_started,
    EventType.RUN_COMPLETED: course.completed,
    EventType.RUN_FAILED: course.failed,
    EventType.RUN_CANCELLED: course.cancelled,
    EventType.STEP_WAITING: steps.waiting,
    EventType.BREAKPOINT_PASSED: steps.breakpoint_passed,
    EventType.FOREACH_EXPANDED: steps.foreach_expanded,
    EventType.STEP_SKIPPED: steps.skipped,
    EventType.STEP_COMPLETED: steps.completed,
    EventType.STEP_FAILED: steps.failed,
    EventType.STEP_RESOLVED: steps.resolved,
    EventType.STEP_REDRIVEN: steps.redriven,
    EventType.ATTEMPT_STARTED: attempts.started,
    EventType.ATTEMPT_SUCCEEDED: attempts.succeeded,
    EventType.ATTEMPT_FAILED: attempts.failed,
    EventType.ATTEMPT_CANCELLED: attempts.cancelled,
    EventType.PLAN_PROPOSED: attempts.plan_proposed,
    EventType.CHILD_STARTED: children.started,
    EventType.CHILD_ENDED: children.ended,
}
assert set(_HANDLERS) == set(EventType)
