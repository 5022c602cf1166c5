"""What follows from what has happened to an attempt: another one, the end of its step, the end of the run."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import structlog

from core.errors import ErrorClass, StepError
from core.journal import Fenced
from core.json import JsonValue
from core.manifest import Effect
from core.run import NO_ITEM, EventType, StepStatus
from core.trace import TraceStatus
from engine import plan
from engine.actor.admission import Admission
from engine.actor.children import Children
from engine.actor.desk import RunDesk
from engine.actor.environment import ActorEnvironment
from engine.actor.expansion import Expansion
from engine.actor.rescue import Rescue
from engine.actor.waits import Waits
from engine.attempt import Attempt, task_id_of
from engine.commit import Commit
from engine.gate import Pass
from engine.node.version import Lane
from engine.outcome import Outcome, error_json, trace_json
from engine.program import Program
from engine.retry import MAX_LOST, delay_before_next
from engine.routing.breaker import Verdict, verdict
from engine.state import RunState, TaskState
from engine.timers import TaskKey

_log = structlog.get_logger(__name__)

SET_VARIABLE = "vars.set"
"""The node whose output becomes a variable of the run."""


class Conduct(RunDesk):
    """See the module."""

    def __init__(self, environment: ActorEnvironment, program: Program, state: RunState) -> None:
        super().__init__(environment, program, state)
        self.admission = Admission(self)
        self.children = Children(self)
        self.waits = Waits(self)
        self.rescue = Rescue(self, self.children)
        self.expansion = Expansion(self)

    @abstractmethod
    def go(self, attempt: Attempt) -> None:
        """Nothing stands in the way of an attempt any more."""

    @abstractmethod
    def passed(self, attempt: Attempt, got: Pass) -> None:
        """An attempt has passed its gate."""

    def leave_gates(self, steps: set[str]) -> None:
        """Attempts of these steps do not wait at their gates any more."""
        self.admission.cancel(steps)

    async def run_attempt(self, attempt: Attempt, first: Commit | None) -> None:
        """Have an attempt performed once it may touch the outside, and post its outcome."""
        try:
            if first is not None:
                await first.wait()
            if self.disowned:
                return
            outcome = await self.env.attempts.perform(
                attempt, self.state, lambda reason, detail: self.note_waiting(attempt, reason, detail)
            )
        except Fenced:
            return  # the run is in other hands, or about to be
        except Exception as error:  # noqa: BLE001 -- task boundary: an attempt without an end would hold its run for ever
            _log.exception("an attempt was ended by a fault of the engine", run_id=str(self.state.record.id))
            fault = StepError(ErrorClass.INTERNAL, f"the engine failed ({type(error).__name__})", outcome_unknown=True)
            outcome = self.env.attempts.ended_now(attempt, TraceStatus.ERROR, fault)
        self.inbox.post(lambda: self.ended(attempt, outcome))

    def note_waiting(self, attempt: Attempt, reason: str, detail: str) -> None:
        """An attempt in flight waits for something; called from anywhere."""

        def note() -> None:
            current = self.running.get((attempt.step_id, attempt.item))
            if current is not None and current[0] is attempt:
                data = {"attempt": True, "reason": reason, "detail": detail}
                self.log.emit(EventType.STEP_WAITING, attempt.step_id, attempt.item, attempt.number, data)

        self.inbox.post(note)

    def ended(self, attempt: Attempt, outcome: Outcome, told: dict[str, Any] | None = None) -> None:
        """An attempt in flight has ended, unless it was given up meanwhile. `told`: the command that ended it."""
        key = (attempt.step_id, attempt.item)
        current = self.running.get(key)
        if current is None or current[0] is not attempt:
            return
        del self.running[key]
        self.timers.cancel(key)
        if self.env.attempts.goes_away(attempt.serving.base):
            self.env.launcher.forget(task_id_of(self.state, attempt), self.log)
        if outcome.lost:
            self.lose(attempt, self.state.steps[attempt.step_id].tasks[attempt.item])
        else:
            self.end(attempt, outcome, told)

    def end(self, attempt: Attempt, outcome: Outcome, told: dict[str, Any] | None = None) -> None:
        """Record how an attempt ended and what follows from it."""
        step_id, item = attempt.step_id, attempt.item
        self.admission.end(attempt, outcome)
        trace = trace_json(attempt.facts, outcome)
        error = outcome.error
        if error is None:
            if attempt.serving.node.expands:
                self.expansion.propose(attempt, outcome)
                return
            data: dict[str, Any] = {"trace": trace, **(told or {})}
            self.add_route(data, attempt)
            if outcome.signal:
                data["signal"] = outcome.signal
            self.succeed(attempt, data, outcome.output, outcome.encoded)
            return
        delay, given_up = self._next_try(attempt, error)
        what_next = "fail" if delay is None else "retry"
        self.failed(attempt, trace, error, what_next, delay or 0.0, given_up=given_up, told=told)
        if delay is None:
            self.task_settled(step_id, item)
        self._check_budget()

    def succeed(self, attempt: Attempt, data: dict[str, Any], output: JsonValue, encoded: bytes | None = None) -> None:
        """Record a success."""
        step_id, item = attempt.step_id, attempt.item
        self.log.emit(EventType.ATTEMPT_SUCCEEDED, step_id, item, attempt.number, data, output, encoded)
        if attempt.facts.node == SET_VARIABLE and isinstance(output, dict):
            told = {key: output[key] for key in ("name", "scope", "expires_at")}
            self.log.emit(EventType.VARIABLE_SET, step_id, item, data=told, payload=output["value"])
        self.task_settled(step_id, item)
        self._check_budget()

    def give_up(
        self, attempt: Attempt, trace: dict[str, Any], error: StepError, told: dict[str, Any] | None = None
    ) -> None:
        """Record a failure after which nothing is tried again. `told`: the command that wants it."""
        self.failed(attempt, trace, error, "fail", 0.0, told=told)
        self.task_settled(attempt.step_id, attempt.item)

    def add_route(self, data: dict[str, Any], attempt: Attempt) -> None:
        """Tell by which arm an attempt was served that was not announced."""
        if attempt.choice is not None and attempt.lane is Lane.INLINE:
            data["route"] = attempt.choice.to_json()  # it was not announced

    def _next_try(self, attempt: Attempt, error: StepError) -> tuple[float | None, str | None]:
        """Seconds until the next attempt, None for none; and the version that is given up before it."""
        task = self.state.steps[attempt.step_id].tasks.get(attempt.item)
        before = task.lost + task.spent if task else 0
        policy = attempt.retry
        delay = None
        if policy.repeats(error.error_class, attempt.effect, error.outcome_unknown):
            chance = self.env.clock.random()
            delay = delay_before_next(policy, attempt.number - before, error.error_class, error.retry_after, chance)
        choice = attempt.choice
        if (
            delay is None
            and choice is not None
            and choice.next_fallback is not None
            and verdict(error.error_class) is Verdict.BAD
        ):
            doubtful = attempt.effect is Effect.UNSAFE and error.outcome_unknown
            if not doubtful:
                return 0.0, choice.version
        return delay, None

    def failed(
        self,
        attempt: Attempt,
        trace: dict[str, Any],
        error: StepError,
        what_next: str,
        delay: float,
        lost: bool = False,
        given_up: str | None = None,
        told: dict[str, Any] | None = None,
    ) -> None:
        """Record that an attempt failed, and set the timer of the next one."""
        data: dict[str, Any] = {"trace": trace, "error": error_json(error, attempt.step_id), "next": what_next}
        data.update(told or {})
        self.add_route(data, attempt)
        if lost:
            data["lost"] = True
        if given_up is not None:
            data["arm_failed"] = given_up
        if what_next == "retry":
            data["retry_at"] = (self.env.clock.now() + timedelta(seconds=delay)).isoformat()
            if not lost and given_up is None:
                data["delay"] = round(delay, 4)
        self.log.emit(EventType.ATTEMPT_FAILED, attempt.step_id, attempt.item, attempt.number, data)
        if what_next == "retry":
            if delay == 0.0 and not lost:
                self.again.append((attempt.step_id, attempt.item))
            else:
                self.set_timer(attempt.step_id, attempt.item)

    def lose(self, attempt: Attempt, task: TaskState) -> bool:
        """An attempt ended with its worker: run it again when that is safe, else ask a person; True: give up."""
        self.admission.end(attempt, None)
        error = StepError(ErrorClass.WORKER_LOST, "the process that ran this attempt ended before it did")
        trace = trace_json(attempt.facts, self.env.attempts.ended_now(attempt, TraceStatus.ERROR, error))
        again = "fail" if task.lost + 1 >= MAX_LOST else "retry"
        what_next = "ask" if task.effect is Effect.UNSAFE else again
        self.failed(attempt, trace, error, what_next, 0.0, lost=True)
        return what_next == "fail"

    def task_settled(self, step_id: str, item: int) -> None:
        """A task is final: its step is, or has room for the next element."""
        if item == NO_ITEM:
            self.step_settled(step_id)
        else:
            self.elements[step_id].finish()
            self.settle_elements(step_id, self.state.steps[step_id].tasks[item])

    def skip(self, step_id: str, reason: str) -> None:
        """A step does not run."""
        if self.state.steps[step_id].status is StepStatus.QUEUED:
            self.log.emit(EventType.STEP_SKIPPED, step_id, data={"reason": reason})
            self.step_settled(step_id)

    def step_settled(self, step_id: str) -> None:
        """A step is final: the run fails with it, or those who waited for it move."""
        if self.state.status.final or self.state.failing is not None:
            return
        fatal = plan.fatal_step(self.program.graph, self.state, (step_id,))
        if fatal is not None:
            self.rescue.fail(self.state.steps[fatal].error or {}, "another step failed")
        else:
            self.ready.extend(plan.moves_after(self.program.graph, self.state, (step_id,)))

    def next_task(self) -> TaskKey | None:
        """The next task whose attempt may start."""
        if self.again:
            return self.again.popleft()
        for step_id, elements in self.elements.items():
            item = elements.take()
            if item is not None:
                return step_id, item
        return None

    def settle_elements(self, step_id: str, ended: TaskState | None) -> None:
        """Complete or fail a `foreach`, when the element that ended now allows it."""
        step = self.state.steps[step_id]
        if (
            ended is not None
            and ended.status is StepStatus.FAILED
            and not self.program.graph.nodes[step_id].links.continues
        ):
            self.elements.pop(step_id)
            self.cancel_attempts("another element failed", (step_id,))
            self.again = deque(one for one in self.again if one[0] != step_id)
            self.log.emit(EventType.STEP_FAILED, step_id, data={"error": ended.error})
            self.step_settled(step_id)
        elif step.finished == step.size:
            self.elements.pop(step_id)
            self.log.emit(EventType.STEP_COMPLETED, step_id)
            self.step_settled(step_id)

    def due(self, step_id: str, item: int) -> None:
        """See `RunDesk.due`."""
        state = self.state.steps.get(step_id)
        task = state.tasks.get(item) if state else None
        if task is None or task.due_at is None or self.state.paused:
            return  # a resumed run sets its timers again
        if task.due_at > self.env.clock.now():
            self.set_timer(step_id, item)
            return
        current = self.running.get((step_id, item))
        if current is None:
            if task.status is StepStatus.WAITING:
                self.again.append((step_id, item))
            return
        attempt = current[0]
        if attempt.lane is Lane.WAIT:
            self.waits.timed_out(attempt)
        elif attempt.lane is Lane.COMPOSITE:
            self.children.timed_out(attempt)
        else:
            self.ended(attempt, self.env.attempts.gave(attempt, {}))

    def fail(self, error: StepError) -> None:
        """End the run with an error."""
        if not self.state.status.final and self.state.failing is None:
            self.rescue.fail(error_json(error), error.message)

    def _check_budget(self) -> None:
        budget = self.program.spec.policies.cost_budget_usd
        if budget is not None and self.state.cost_usd > budget and not self.state.status.final:
            spent = f"the run has cost {self.state.cost_usd:.4f} USD, more than its budget of {budget:g} USD"
            self.fail(StepError(ErrorClass.POLICY, spent))

    def cancel(self, reason: str) -> None:
        """End the run because somebody wants it."""
        self.cancel_attempts(reason)
        self.rescue.cancel(reason)
        self.log.emit(EventType.RUN_CANCELLED, data={"reason": reason})

    def cancel_attempts(self, reason: str, only_steps: Iterable[str] | None = None) -> None:
        """Cancel attempts in flight; each has its end recorded now, whether or not its node obeys."""
        wanted = None if only_steps is None else set(only_steps)
        self.admission.cancel(wanted)
        for key in [key for key in self.running if wanted is None or key[0] in wanted]:
            attempt, task = self.running.pop(key)
            if task is not None:
                task.cancel()
            self._give_up(attempt, reason)
            outcome = self.env.attempts.ended_now(attempt, TraceStatus.CANCELLED)
            self.log.emit(
                EventType.ATTEMPT_CANCELLED,
                attempt.step_id,
                attempt.item,
                attempt.number,
                {"trace": trace_json(attempt.facts, outcome), "reason": reason},
            )
            self.admission.end(attempt, outcome)
        for step_id in [None] if wanted is None else wanted:
            self.timers.cancel_all(step_id)

    def _give_up(self, attempt: Attempt, reason: str) -> None:
        if attempt.lane is Lane.WAIT:
            self.waits.forget(attempt)
        elif attempt.lane is Lane.COMPOSITE:
            self.children.cancel(attempt, reason)
        elif attempt.serving.node.expands:
            self.expansion.forget(attempt)
        elif self.env.attempts.goes_away(attempt.serving.base):
            self.env.launcher.withdraw(task_id_of(self.state, attempt))
