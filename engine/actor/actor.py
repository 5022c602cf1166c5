"""One run, in the hands of its owner.

The actor is the only one that changes the run's state. It takes what happened (an attempt ended, a timer is due, a
person wants something) from its inbox, folds events over the state, and starts what the plan allows. Events go to
the group commit in order; nothing that touches the outside starts before the event that says so is durable.
Pure steps may run ahead of the commit: if it never comes nobody has seen them, and running them again does no harm.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from core.command import Command, Redrive
from core.errors import Conflict, ErrorClass, StepError, Unavailable
from core.ids import RunId
from core.journal import Fenced
from core.json import JsonValue
from core.manifest import Effect
from core.run import NO_ITEM, EventType, Parent, RunStatus, StepStatus
from core.trace import TraceStatus
from engine import plan
from engine.actor.admission import Admission
from engine.actor.children import Children
from engine.actor.commands import perform_command
from engine.actor.environment import ActorEnvironment
from engine.actor.expansion import Expansion
from engine.actor.recovery import recover
from engine.actor.rescue import Rescue
from engine.actor.waits import Waits, wait_json
from engine.attempt import Attempt, task_id_of
from engine.commit import Commit
from engine.elements import Elements
from engine.expression.secret import masked
from engine.gate import Pass
from engine.inbox import Inbox
from engine.node.version import Lane
from engine.nodes.flow.end import End
from engine.outcome import Outcome, error_json, trace_json
from engine.plan import Move
from engine.program import Program
from engine.retry import MAX_LOST, delay_before_next
from engine.routing.breaker import Verdict, verdict
from engine.routing.choice import ArmsBusy
from engine.run_log import RunLog
from engine.state import RunState, TaskState
from engine.timers import TaskKey, Timers

_log = structlog.get_logger(__name__)

_STEPS_PER_TURN = 25
"""Inline steps after which other tasks of the loop get their turn."""

SET_VARIABLE = "vars.set"
"""The node whose output becomes a variable of the run."""

_CAREFUL_AFTER = 3
"""Recoveries after which pure steps, too, announce themselves: one of them may be what kills the process."""

Running = tuple[Attempt, asyncio.Task[None] | None]


@dataclass(frozen=True, slots=True)
class Change:
    """What a graph shall become.

    Attributes:
        base: the document of the run when this was made.
        touched: steps that it changes or removes.
    """

    base: dict[str, Any] | None
    document: dict[str, Any]
    program: Program
    touched: frozenset[str]


class Over(Conflict):
    """The run has ended, and its actor is about to go."""


class Stale(Conflict):
    """The run has moved on since the change was prepared."""


class RunActor:
    """See the module. `done` is resolved with the final state once that is durable.

    Args:
        reopened: the run had ended, and somebody has asked for something that makes it go on.
    """

    def __init__(
        self, environment: ActorEnvironment, program: Program, state: RunState, reopened: bool = False
    ) -> None:
        self.env = environment
        self.program = program
        self.log = RunLog(environment.clock, environment.commit, state)
        self.state = state
        self.inbox = Inbox()
        self.ready: deque[tuple[str, Move]] = deque()
        self.again: deque[TaskKey] = deque()
        self.elements: dict[str, Elements] = {}
        self.running: dict[TaskKey, Running] = {}
        self.timers = Timers(lambda key: self.inbox.post(lambda: self._due(*key)))
        self.admission = Admission(self)
        self.children = Children(self)
        self.waits = Waits(self)
        self.rescue = Rescue(self)
        self.expansion = Expansion(self)
        self._reopened = reopened
        self._disowned = False
        self._ending: End | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.created: asyncio.Future[Commit] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[RunState] = asyncio.get_running_loop().create_future()

    async def accepted(self) -> None:
        """Wait until the run is durable.

        Raises:
            Unavailable: this engine stopped before that; whether the run exists is not known.
        """
        await asyncio.wait((self.created,))
        if self.created.cancelled():
            raise Unavailable("the server is stopping; whether the run was accepted is not known, ask again")
        await self.created.result().wait()

    async def settled(self) -> None:
        """Wait until nothing of this run is on its way to the journal any more. Raises Fenced."""
        if self.log.last is not None:
            await self.log.last.wait()

    async def quiet(self) -> None:
        """Wait until no node is at work for this run."""
        tasks = [
            task
            for attempt, task in self.running.values()
            if task is not None and not self.env.attempts.goes_away(attempt.serving.base)
        ]
        if tasks:
            await asyncio.wait(tasks)

    def disown(self) -> None:
        """The run is another engine's: nothing more is to be begun here, not even what is about to."""
        self._disowned = True

    def close(self) -> None:
        """The run is out of this engine's hands: whoever waits for its end here waits in vain."""
        if not self.created.done():
            self.created.cancel()
        if not self.done.done():
            self.done.cancel()
        self.inbox.close()

    # --- what others may ask for ---------------------------------------------------------------------------------

    def ask(self, command: Command) -> "asyncio.Future[None]":
        """Perform a command. The future is resolved once that is durable; it raises what the command is refused for.

        A command with an id that was performed before is not performed again.
        """

        def perform() -> None:
            if str(command.id) in self.state.commands:
                return
            if self.state.status.final and not (self._reopened and isinstance(command, Redrive)):
                raise Over(f"the run is {self.state.status.value} already")
            perform_command(self, command)

        answer = self.inbox.ask(perform, self.log.flush)
        if self.done.done():
            self.inbox.perform()
        return answer

    def reject(self, reason: str) -> None:
        """End the run with an error: the journal refuses what it holds, or the engine cannot go on with it."""
        self.inbox.post(lambda: self.fail(StepError(ErrorClass.INTERNAL, reason)))

    def orphaned(self) -> None:
        """Nobody waits for this run any more: whoever had started it has ended."""

        def act() -> None:
            if not self.state.status.final:
                self.cancel("the run that had started it has ended")

        self.inbox.post(act)

    def child_ended(self, parent: Parent, child: RunState) -> None:
        """A run that this one has started is over."""
        if parent.step_id:
            self.inbox.post(lambda: self.children.ended(parent, child))
        else:
            self.inbox.post(lambda: self.rescue.ended(child))

    def child_missing(self, parent: Parent, run_id: RunId) -> None:
        """A run that this one has started is in no journal."""
        if parent.step_id:
            self.inbox.post(lambda: self.children.missing(parent, run_id))
        else:
            self.inbox.post(lambda: self.rescue.missing(run_id))

    def outstanding(self) -> Iterator[tuple[RunId, Parent]]:
        """Runs whose end this one waits for."""
        yield from self.children.outstanding()
        fallback = self.rescue.outstanding()
        if fallback is not None:
            yield fallback

    # --- the loop ------------------------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Take the run to its end. Raises Fenced when another engine has taken over."""
        try:
            if self._reopened:
                self.inbox.perform()
                self._reopened = False
                if self.state.status.final:  # what was asked for was refused: nothing has changed
                    self.log.restate()
                else:
                    self.admission.seek_room()
            elif self.log.fresh:
                await self.admission.create()
            else:
                await recover(self)
            self.set_deadline()
            # Before any act is performed: what an act sets going (a step to be repeated) is not to be found here again.
            if not self.state.status.final:
                self.ready = deque(plan.all_moves(self.program.graph, self.state))
            self.inbox.perform()
            while not self.state.status.final:
                await self._advance()
                if not self.state.status.final and self.state.open == 0 and not self.state.holding:
                    await self._all_done()
                commit = self.log.flush()
                if commit is not None and not self.created.done():
                    self.created.set_result(commit)
                if not self.state.status.final:
                    await self.inbox.filled()
                    self.inbox.perform()
            self.admission.leave_room()
            self.log.flush()
            if self.log.last is not None:
                await self.log.last.wait()
            self.done.set_result(self.state)
            self.inbox.perform()
        finally:
            self._abandon()

    async def _advance(self) -> None:
        """Do everything that needs no waiting."""
        turns = 0
        while not self.state.status.final:
            # What has been decided is said in one write with what it follows from: no owner may find only half of it.
            if self._ending is not None:
                await self._complete(self._ending.outputs)
                continue
            if self.rescue.wanted:
                await self.rescue.start()
                continue
            if self.state.holding or self.env.draining():
                return
            if self.children.moving:
                await self.children.advance()
            elif self.ready:
                step_id, move = self.ready.popleft()
                if move is Move.SKIP:
                    self._skip(step_id, plan.why_skipped(self.program.graph, step_id))
                else:
                    await self._begin(step_id)
            elif (task := self._next_task()) is not None:
                await self._start(*task)
            else:
                return
            turns += 1
            if turns % _STEPS_PER_TURN == 0 and self._ending is None and not self.rescue.wanted:
                self.log.flush()
                await asyncio.sleep(0)
                self.inbox.perform()

    # --- steps ---------------------------------------------------------------------------------------------------

    async def _begin(self, step_id: str) -> None:
        """A step's turn has come: decide whether it runs, and for how many elements."""
        if step_id not in self.program.steps or self.state.steps[step_id].status is not StepStatus.QUEUED:
            return  # the graph was changed meanwhile
        step = self.program.steps[step_id]
        attempts = self.env.attempts
        try:
            if step.when is not None:
                verdict = await attempts.resolve(step.when, self.state)
                if not isinstance(verdict, bool):
                    kind = type(verdict).__name__
                    raise StepError(
                        ErrorClass.EXPRESSION, f"`when` gave {kind} instead of true or false; compare, as in x == 1"
                    )
                if not verdict:
                    self._skip(step_id, "its condition is false")
                    return
            if self._breaks_before(step_id):
                await self._break(step_id)
                return
            if step.foreach is not None:
                found = await attempts.resolve(step.foreach, self.state)
                elements = Elements.of(found, step.step.concurrency)
                # What depends on variables may be another list later.
                values = found if self.program.uses_variables else None
                self.log.emit(EventType.FOREACH_EXPANDED, step_id, data={"size": elements.size}, payload=values)
                self.elements[step_id] = elements
                self.settle_elements(step_id, None)
                return
        except StepError as error:
            number = (self.state.steps[step_id].past or {}).get(NO_ITEM, 0) + 1
            self.end(attempts.stillborn(step, step_id, NO_ITEM, number), attempts.never_ran(error))
            return
        await self._start(step_id, NO_ITEM)

    def _breaks_before(self, step_id: str) -> bool:
        state = self.state
        return step_id not in state.released and (state.stepping or step_id in state.breakpoints)

    async def _break(self, step_id: str) -> None:
        """Stop before a step, and show what it would be given."""
        shown: JsonValue = None
        if self.program.steps[step_id].foreach is None:
            try:
                # As if it were under way: no arm is drawn for what does not start.
                attempt = await self.env.attempts.prepare(
                    self.program, self.state, step_id, NO_ITEM, 1, None, again=TaskState()
                )
                shown = masked(attempt.serving.given)
            except StepError:
                shown = None  # the step will fail with it; that is what one wants to see, and mend
        self.log.emit(EventType.STEP_WAITING, step_id, data={"reason": "breakpoint"}, payload=shown)

    async def _start(self, step_id: str, item: int) -> None:
        """Start the next attempt of a task, or have it wait at its gate."""
        if (step_id, item) in self.running or self.admission.asks((step_id, item)):
            return  # found anew, after the graph was changed or timers were set again
        step = self.program.steps[step_id]
        state = self.state.steps[step_id]
        task = state.tasks.get(item)
        past = state.past.get(item, 0) if state.past else 0
        number = (task.attempts if task else past) + 1
        element = self.elements[step_id].value(item) if item != NO_ITEM else None
        try:
            attempt = await self.env.attempts.prepare(self.program, self.state, step_id, item, number, element)
        except ArmsBusy as busy:
            self._wait_for_arm(step_id, item, busy)
            return
        except StepError as error:
            self.end(self.env.attempts.stillborn(step, step_id, item, number), self.env.attempts.never_ran(error))
            return
        if attempt.gate is None:
            self.go(attempt)
        else:
            self.admission.ask(attempt)

    def _wait_for_arm(self, step_id: str, item: int, busy: ArmsBusy) -> None:
        """Ask again later. The journal is told once, however often that is."""
        seconds = busy.retry_after or 1.0
        task = self.state.steps[step_id].tasks.get(item)
        if task is None or task.waiting is None or task.waiting["reason"] != "breaker":
            until = (self.env.clock.now() + timedelta(seconds=seconds)).isoformat()
            data = {"reason": "breaker", "detail": busy.message, "until": until}
            self.log.emit(EventType.STEP_WAITING, step_id, item, data=data)
        self.timers.set((step_id, item), seconds)

    def go(self, attempt: Attempt) -> None:
        """Nothing stands in the way of an attempt any more."""
        lane = attempt.lane
        if lane is Lane.INLINE and self.state.recoveries < _CAREFUL_AFTER:
            self.end(attempt, self.env.attempts.inline(attempt))
            return
        if lane is Lane.END:
            self._end_run(attempt)
            return
        key = (attempt.step_id, attempt.item)
        commit = self._announce(attempt)
        if lane is Lane.WAIT:
            self.running[key] = (attempt, None)
            self.waits.begin(attempt)
        elif lane is Lane.COMPOSITE:
            self.running[key] = (attempt, None)
            self.children.begin(attempt, {})
        elif lane is Lane.TIMER:
            self.running[key] = (attempt, None)
        else:
            # An effect must not happen before the journal knows that it may have. What is pure waits for the run to be
            # known: a node that kills the process must not do so again for each client that tries again.
            careful = attempt.effect is not Effect.PURE or self.state.recoveries >= _CAREFUL_AFTER
            first = commit if careful else self.log.first
            self.running[key] = (attempt, asyncio.create_task(self.run_attempt(attempt, first)))
        if attempt.due_at is not None and key in self.running:
            self.set_timer(*key)

    def _announce(self, attempt: Attempt) -> Commit | None:
        data: dict[str, Any] = {
            "node": attempt.facts.node,
            "node_version": attempt.facts.node_version,
            "effect": attempt.effect.value,
        }
        if attempt.due_at is not None:
            data["due_at"] = attempt.due_at.isoformat()
        if attempt.choice is not None:
            data["route"] = attempt.choice.to_json()
        if attempt.lane is Lane.WAIT:
            data["wait"] = wait_json(attempt.plan)
        elif attempt.lane is Lane.COMPOSITE:
            data["children"] = True
        elif self.env.attempts.goes_away(attempt.serving.base):
            data["remote"] = True
        self.log.emit(EventType.ATTEMPT_STARTED, attempt.step_id, attempt.item, attempt.number, data)
        return self.log.flush()

    async def run_attempt(self, attempt: Attempt, first: Commit | None) -> None:
        """Have an attempt performed once it may touch the outside, and post its outcome."""
        try:
            if first is not None:
                await first.wait()
            if self._disowned:
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
            self._add_route(data, attempt)
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

    def give_up(self, attempt: Attempt, trace: dict[str, Any], error: StepError) -> None:
        """Record a failure after which nothing is tried again."""
        self.failed(attempt, trace, error, "fail", 0.0)
        self.task_settled(attempt.step_id, attempt.item)

    def _add_route(self, data: dict[str, Any], attempt: Attempt) -> None:
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
        self._add_route(data, attempt)
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

    def _skip(self, step_id: str, reason: str) -> None:
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

    # --- foreach -------------------------------------------------------------------------------------------------

    def _next_task(self) -> TaskKey | None:
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

    # --- time ----------------------------------------------------------------------------------------------------

    def set_timer(self, step_id: str, item: int) -> None:
        """Wake a task when it is due."""
        due_at = self.state.steps[step_id].tasks[item].due_at
        assert due_at is not None
        self.timers.set((step_id, item), (due_at - self.env.clock.now()).total_seconds())

    def _due(self, step_id: str, item: int) -> None:
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

    def set_deadline(self) -> None:
        """Fail the run when it takes longer than its limit. The time that it stood still does not count."""
        limit = self.program.spec.policies.max_duration
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if limit is None or self.state.holding or self.state.started_at is None:
            return
        spent = (self.env.clock.now() - self.state.started_at).total_seconds() - self.state.paused_seconds
        late = StepError(ErrorClass.TIMEOUT, f"the run took longer than its limit of {limit:g} s")
        self._deadline = asyncio.get_running_loop().call_later(
            max(0.0, limit - spent), lambda: self.inbox.post(lambda: self.fail(late))
        )

    # --- ends ----------------------------------------------------------------------------------------------------

    async def _all_done(self) -> None:
        """No step is open: the run is complete, unless a step of an earlier drive has failed, and was not repeated."""
        fatal = plan.fatal_step(self.program.graph, self.state, self.state.steps)
        if fatal is None:
            await self._complete(None)
            return
        self.rescue.fail(self.state.steps[fatal].error or {}, "another step failed")
        if self.rescue.wanted:
            await self.rescue.start()

    async def _complete(self, outputs: JsonValue) -> None:
        self._ending = None
        try:
            if outputs is None:
                outputs = await self.env.attempts.resolve(self.program.outputs, self.state)
        except StepError as error:
            self.rescue.fail(error_json(error), error.message)
            return
        self.log.emit(EventType.RUN_COMPLETED, payload=outputs)

    def _end_run(self, attempt: Attempt) -> None:
        """`flow.end`: the run is over now, whatever else it might have done."""
        wanted = attempt.plan
        self.log.emit(
            EventType.ATTEMPT_SUCCEEDED,
            attempt.step_id,
            attempt.item,
            attempt.number,
            {"trace": trace_json(attempt.facts, self.env.attempts.gave(attempt, {}))},
            {"status": wanted.status},
        )
        self.cancel_attempts("the run was ended by a step")
        if wanted.status == "failed":
            error = StepError(ErrorClass.POLICY, wanted.message or "a step ended the run as failed")
            self.rescue.fail(error_json(error, attempt.step_id), error.message)
        else:
            self._ending = wanted

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

    # --- changes of the graph ------------------------------------------------------------------------------------

    async def prepare_change(self, operations: Sequence[JsonValue]) -> "Change":
        """Find what operations would make of the graph. Raises Invalid, Unavailable."""
        workflows, state = self.env.parts.workflows, self.state
        if workflows is None:
            raise Unavailable("this engine cannot change graphs")
        document = state.spec if state.spec is not None else self.program.spec.to_json()
        started = frozenset(one for one, step in state.steps.items() if step.status is not StepStatus.QUEUED)
        changed, program, touched = await workflows.changed(
            state.record.workspace, document, operations, started, state.record.pins
        )
        return Change(state.spec, changed, program, touched)

    def still_fits(self, change: "Change") -> bool:
        """Whether nothing has happened since that stands against a change."""
        steps = self.state.steps
        return self.state.spec is change.base and all(
            one not in steps or steps[one].status is StepStatus.QUEUED for one in change.touched
        )

    def change_graph(self, change: "Change", command: Command) -> "asyncio.Future[None]":
        """Go on with a changed graph. The future raises Stale when the run has moved on, and one has to look again."""

        def perform() -> None:
            if str(command.id) in self.state.commands:
                return
            if self.state.status.final:
                raise Conflict(f"the run is {self.state.status.value} already")
            if not self.still_fits(change):
                raise Stale("the run has moved on")
            self.adopt(change, {"by": command.by, "command": str(command.id)})

        return self.inbox.ask(perform, self.log.flush)

    def adopt(self, change: "Change", data: dict[str, Any]) -> None:
        """Go on with a changed graph."""
        payload = {"spec": change.document, "pins": change.program.pins}
        self.log.emit(EventType.GRAPH_PATCHED, data=data, payload=payload)
        self.program = change.program
        self.admission.cancel(set(change.touched))  # they ask again, as they are now
        self.ready = deque(plan.all_moves(change.program.graph, self.state))
        self.set_deadline()

    def recreate_moves(self) -> None:
        """Find anew what may start, after steps were reset."""
        self.ready = deque(plan.all_moves(self.program.graph, self.state))

    def set_timers(self) -> None:
        """Set the timer of every task that waits for a time."""
        for step_id, step in self.state.steps.items():
            for item, task in step.tasks.items():
                if task.due_at is not None and not task.status.final:
                    self.set_timer(step_id, item)

    def passed(self, attempt: Attempt, got: Pass) -> None:
        """An attempt has passed its gate."""
        if got.hit is not None:
            hit = got.hit
            outcome = Outcome(TraceStatus.OK, 0.0, hit.output, hit.encoded, cached=True)
            self.end(attempt, outcome)
        else:
            self.go(attempt)

    def _abandon(self) -> None:
        for _, task in self.running.values():
            if task is not None:
                task.cancel()
        self.admission.abandon()
        self.children.abandon()
        self.waits.abandon()
        self.timers.cancel_all()
        if self._deadline is not None:
            self._deadline.cancel()

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.state.status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
