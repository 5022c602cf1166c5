"""Steps that plan further steps: the plan becomes part of the graph once it is valid, and approved where one asks."""

import asyncio
from typing import Any

from core.command import Decide
from core.errors import ErrorClass, Invalid, RefluxError, StepError
from core.journal import Fenced
from core.json import JsonValue
from core.run import EventType
from core.trace import TraceStatus
from engine.actor.host import RunHost
from engine.actor.waits import check_role
from engine.attempt import Attempt
from engine.outcome import Outcome, trace_json
from engine.patch import expansion
from engine.patience import patiently
from engine.state import TaskState
from engine.timers import TaskKey


class Expansion:
    """See the module. The plan is in the journal before anybody is asked, so that it is made only once."""

    def __init__(self, actor: RunHost) -> None:
        self._actor = actor
        self._proposed: dict[TaskKey, tuple[Attempt, JsonValue, dict[str, Any]]] = {}
        self._applying: set[asyncio.Task[None]] = set()

    def propose(self, attempt: Attempt, outcome: Outcome) -> None:
        """A plan is made: ask for approval, or apply it at once."""
        trace = trace_json(attempt.facts, outcome)
        key = (attempt.step_id, attempt.item)
        self._proposed[key] = (attempt, outcome.output, trace)
        self._actor.running[key] = (attempt, None)
        if attempt.serving.params.get("review", True):
            data = {"role": "approver", "trace": trace}
            self._actor.log.emit(
                EventType.PLAN_PROPOSED, attempt.step_id, attempt.item, attempt.number, data, outcome.output
            )
        else:
            self._apply(key)

    def resume(self, attempt: Attempt, task: TaskState) -> None:
        """Take up a plan that waits for approval."""
        assert task.wait is not None
        key = (attempt.step_id, attempt.item)
        self._proposed[key] = (attempt, task.wait["plan"], task.wait["trace"])
        self._actor.running[key] = (attempt, None)
        if task.wait.get("approved"):
            self._apply(key)

    def decide(self, command: Decide) -> bool:
        """Answer a plan. False when the step has none. Raises Forbidden."""
        key = (command.step_id, command.item)
        if key not in self._proposed:
            return False
        check_role(command, "approver")
        told = {"command": str(command.id), "by": command.by}
        if command.approved:
            attempt = self._proposed[key][0]
            data = {"attempt": True, "approved": True, "reason": "", **told}
            self._actor.log.emit(EventType.STEP_WAITING, key[0], key[1], attempt.number, data)
            self._apply(key)
        else:
            said = f": {command.comment}" if command.comment else ""
            error = StepError(ErrorClass.POLICY, f"{command.by or 'somebody'} rejected the plan{said}")
            self._refuse(key, error, told)
        return True

    def forget(self, attempt: Attempt) -> None:
        """The attempt was given up."""
        self._proposed.pop((attempt.step_id, attempt.item), None)

    def _apply(self, key: TaskKey) -> None:
        task = asyncio.create_task(self._check_and_apply(key))
        self._applying.add(task)
        task.add_done_callback(self._applying.discard)

    async def _check_and_apply(self, key: TaskKey) -> None:
        actor = self._actor
        proposed = self._proposed.get(key)
        if proposed is None:
            return
        output = proposed[1]
        planned = output.get("operations", []) if isinstance(output, dict) else []
        operations = expansion(actor.program.graph, key[0], planned)
        try:
            change = await patiently(lambda: actor.prepare_change(operations), "a plan")
        except Invalid as error:
            said = "; ".join(f"{one.path}: {one.message}" for one in error.faults[:3])
            refusal = StepError(ErrorClass.INVALID_INPUT, f"the plan is not valid: {said}")
            actor.inbox.post(lambda: self._refuse(key, refusal))
        except (Fenced, RefluxError) as error:
            fault = StepError(ErrorClass.INTERNAL, str(error))
            actor.inbox.post(lambda: self._refuse(key, fault))
        else:
            actor.inbox.post(lambda: self._adopt(key, change))

    def _adopt(self, key: TaskKey, change: Any) -> None:
        actor = self._actor
        if key not in self._proposed or actor.state.status.final:
            return
        if not actor.still_fits(change):
            self._apply(key)  # the graph was changed meanwhile: look again
            return
        attempt, output, trace = self._proposed.pop(key)
        # The graph first: whoever waits for this step waits for the planned ones too, from now on.
        actor.adopt(change, {"by": f"the step {key[0]}"})
        actor.running.pop(key, None)
        actor.succeed(attempt, {"trace": trace}, output)

    def _refuse(self, key: TaskKey, error: StepError, told: dict[str, Any] | None = None) -> None:
        proposed = self._proposed.pop(key, None)
        if proposed is None or self._actor.state.status.final:
            return
        attempt, _, trace = proposed
        self._actor.running.pop(key, None)
        self._actor.give_up(attempt, {**trace, "status": TraceStatus.ERROR.value}, error, told)
