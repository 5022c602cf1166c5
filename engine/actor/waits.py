"""Steps that wait for something outside: an event, a form, an approval."""

from dataclasses import asdict
from functools import partial
from typing import Any

from core.command import Decide, Signal
from core.errors import Conflict, ErrorClass, Forbidden, Invalid, StepError
from core.json import JsonValue
from core.run import EventType
from core.trace import TraceStatus
from engine.actor.host import RunHost
from engine.attempt import Attempt
from engine.events.wait_index import Wait as EventWait
from engine.expression.errors import ExpressionError
from engine.json_schema import value_faults
from engine.nodes.flow.wait import Wait, decision
from engine.outcome import Outcome
from engine.patience import patiently
from engine.scope import scope_of
from engine.state import TaskState
from engine.timers import TaskKey


class Waits:
    """See the module."""

    def __init__(self, actor: RunHost) -> None:
        self._actor = actor
        self._indexed: set[TaskKey] = set()

    def begin(self, attempt: Attempt) -> None:
        """An attempt begins to wait. What was told before it did is there already."""
        wait: Wait = attempt.plan
        if wait.kind != "event":
            return
        told = next((one for one in self._actor.state.signals if one.name == wait.name), None)
        if told is not None:
            self._end(attempt, told.payload, told.id)
        else:
            self._index(attempt, wait)

    def resume(self, attempt: Attempt, task: TaskState) -> Attempt:
        """Take up a wait of an earlier owner. Events of the meantime are looked for apart (`missed`)."""
        assert task.wait is not None
        wait = Wait(**{key: value for key, value in task.wait.items() if key not in ("trace", "plan")})
        taken = attempt._replace(plan=wait)
        self._actor.running[attempt.step_id, attempt.item] = (taken, None)
        if wait.kind == "event":
            self._index(taken, wait)
        return taken

    async def missed(self, attempt: Attempt) -> None:
        """Look for an event that came while nobody watched."""
        actor, wait = self._actor, attempt.plan
        log, index = actor.env.parts.events, actor.env.parts.waits
        if wait.kind != "event" or log is None or index is None:
            return
        key = (actor.state.record.id, attempt.step_id, attempt.item)
        began, last = attempt.facts.started_at, None
        while True:
            events = await patiently(
                partial(log.since, actor.state.record.workspace, wait.name, began, last), "events of the past"
            )
            for event in events:
                if await index.holds(key, event):
                    self.wake(attempt.step_id, attempt.item, event.payload)
                    return
            if not events:
                return
            last = events[-1].id

    def _index(self, attempt: Attempt, wait: Wait) -> None:
        actor = self._actor
        index = actor.env.parts.waits
        if index is None or wait.name is None:
            return
        state = actor.state
        scope = scope_of(state, actor.env.clock.now())
        variables = {name: scope[name] for name in ("input", "vars", "context")}
        told = EventWait(state.record.workspace, wait.name, wait.match, variables, attempt.facts.started_at)
        try:
            index.add((state.record.id, attempt.step_id, attempt.item), told)
        except ExpressionError as error:  # only edited parameters were not looked at before
            self._fail(attempt, StepError(ErrorClass.EXPRESSION, f"`match`: {error}"))
            return
        self._indexed.add((attempt.step_id, attempt.item))

    def wake(self, step_id: str, item: int, payload: JsonValue) -> None:
        """An event that a step waits for is here; called from anywhere."""

        def act() -> None:
            current = self._actor.running.get((step_id, item))
            if current is not None and isinstance(current[0].plan, Wait):
                self._end(current[0], payload)

        self._actor.inbox.post(act)

    def signal(self, command: Signal) -> None:
        """Somebody tells the run something."""
        actor = self._actor
        data = {"name": command.name, "command": str(command.id), "by": command.by}
        actor.log.emit(EventType.SIGNAL_RECEIVED, data=data, payload=command.payload)
        for attempt, _ in list(actor.running.values()):
            plan = attempt.plan
            if isinstance(plan, Wait) and plan.kind == "event" and plan.name == command.name:
                self._end(attempt, command.payload, str(command.id))
                return

    def decide(self, command: Decide) -> None:
        """Somebody answers a form or an approval.

        Raises:
            Conflict: the step does not wait for that.
            Forbidden: it asks for another role.
            Invalid: what was submitted does not fit the form.
        """
        actor = self._actor
        current = actor.running.get((command.step_id, command.item))
        plan = current[0].plan if current is not None else None
        if current is None or not isinstance(plan, Wait) or plan.kind == "event":
            raise Conflict(f"step {command.step_id!r} does not wait for an answer")
        check_role(command, plan.role)
        attempt = current[0]
        told = {"command": str(command.id), "by": command.by}
        if plan.kind == "form" and command.approved:
            faults = list(value_faults(plan.form or {}, command.payload, "$.payload"))
            if faults:
                raise Invalid("what was submitted does not fit the form", faults)
            self._end(attempt, command.payload, told=told)
            return
        answer = decision(command.approved, command.by, command.comment)
        if command.payload is not None:
            answer["payload"] = command.payload
        if command.approved or plan.on_reject == "continue":
            self._end(attempt, answer, told=told)
        else:
            said = f": {command.comment}" if command.comment else ""
            self._fail(attempt, StepError(ErrorClass.POLICY, f"{command.by or 'somebody'} said no{said}"), told)

    def timed_out(self, attempt: Attempt) -> None:
        """Nothing came in time."""
        plan = attempt.plan
        if not isinstance(plan, Wait):
            return
        if plan.on_timeout == "continue":
            self._end(attempt, plan.late)
        else:
            what = f"the event {plan.name!r}" if plan.kind == "event" else f"the {plan.kind}"
            self._fail(attempt, StepError(ErrorClass.TIMEOUT, f"{what} did not come in time"))

    def forget(self, attempt: Attempt) -> None:
        """Wait no more."""
        key = (attempt.step_id, attempt.item)
        index = self._actor.env.parts.waits
        if key in self._indexed and index is not None:
            index.remove((self._actor.state.record.id, *key))
            self._indexed.discard(key)

    def abandon(self) -> None:
        """The run is in other hands."""
        index = self._actor.env.parts.waits
        if index is not None:
            for key in self._indexed:
                index.remove((self._actor.state.record.id, *key))
        self._indexed.clear()

    def _end(self, attempt: Attempt, output: JsonValue, signal: str = "", told: dict[str, Any] | None = None) -> None:
        self.forget(attempt)
        waited = self._actor.env.attempts.gave(attempt, output)
        self._actor.ended(attempt, Outcome(waited.status, waited.latency_ms, output, signal=signal), told)

    def _fail(self, attempt: Attempt, error: StepError, told: dict[str, Any] | None = None) -> None:
        self.forget(attempt)
        late = error.error_class is ErrorClass.TIMEOUT
        status = TraceStatus.TIMEOUT if late else TraceStatus.ERROR
        self._actor.ended(attempt, self._actor.env.attempts.ended_now(attempt, status, error), told)


def wait_json(plan: Any) -> dict[str, Any]:
    """A wait as the journal keeps it."""
    return {key: value for key, value in asdict(plan).items() if value is not None}


def check_role(command: Decide, needed: str) -> None:
    """Raises Forbidden when the role of who decides is not enough."""
    if not command.role.covers(command.role.__class__(needed)):
        raise Forbidden(f"this step is answered by the role {needed} or above, and this key has {command.role.value}")
