"""One run, in the hands of its owner.

The actor is the only one that changes the run's state. It takes what happened (an attempt ended, a timer is due, a
person wants something) from its inbox, folds events over the state, and starts what the plan allows. Events go to
the group commit in order; nothing that touches the outside starts before the event that says so is durable.
Pure steps may run ahead of the commit: if it never comes nobody has seen them, and running them again does no harm.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from core.clock import Clock
from core.errors import Conflict, ErrorClass, StepError, Unavailable
from core.journal import Fenced
from core.json import JsonValue
from core.manifest import Effect
from core.run import NO_ITEM, EventType, StepStatus
from core.trace import TraceStatus
from engine import plan
from engine.attempt import Attempt, Attempts
from engine.commit import Commit, GroupCommit
from engine.elements import Elements
from engine.inbox import Inbox
from engine.node.version import Lane
from engine.outcome import Outcome, error_json, trace_json
from engine.plan import Move
from engine.program import Program
from engine.retry import MAX_LOST, delay_before_next
from engine.run_log import RunLog
from engine.state import RunState, TaskState
from engine.timers import Timers

_log = structlog.get_logger(__name__)

_STEPS_PER_TURN = 25
"""Inline steps after which other tasks of the loop get their turn."""

_CAREFUL_AFTER = 3
"""Recoveries after which pure steps, too, announce themselves: one of them may be what kills the process."""


@dataclass(frozen=True, slots=True)
class ActorEnvironment:
    """What all actors of an engine share."""

    clock: Clock
    attempts: Attempts
    commit: GroupCommit
    draining: Callable[[], bool]


class RunActor:
    """See the module. `done` is resolved with the final state once that is durable."""

    def __init__(self, environment: ActorEnvironment, program: Program, state: RunState) -> None:
        self._env = environment
        self._program = program
        self._log = RunLog(environment.clock, environment.commit, state)
        self.state = state
        self._inbox = Inbox()
        self._ready: deque[tuple[str, Move]] = deque()
        self._again: deque[tuple[str, int]] = deque()
        self._elements: dict[str, Elements] = {}
        self._running: dict[tuple[str, int], tuple[Attempt, asyncio.Task[None] | None]] = {}
        self._timers = Timers(lambda key: self._inbox.post(lambda: self._due(*key)))
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
        if self._log.last is not None:
            await self._log.last.wait()

    async def quiet(self) -> None:
        """Wait until no node is at work for this run."""
        tasks = [task for _, task in self._running.values() if task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def close(self) -> None:
        """The run is out of this engine's hands: whoever waits for its end here waits in vain."""
        if not self.created.done():
            self.created.cancel()
        if not self.done.done():
            self.done.cancel()
        self._inbox.close()

    # --- what others may ask for ---------------------------------------------------------------------------------

    def cancel(self, reason: str) -> "asyncio.Future[None]":
        """Cancel the run. The future is resolved once that is durable; it raises Conflict when the run has ended."""
        return self._ask(lambda: self._cancel(reason))

    def resolve(self, step_id: str, item: int, outcome: str, output: JsonValue) -> "asyncio.Future[None]":
        """Say what became of an attempt whose outcome is unknown: `succeeded`, `failed` or `retry`."""
        return self._ask(lambda: self._resolve_unknown(step_id, item, outcome, output))

    def reject(self, reason: str) -> None:
        """End the run with an error: the journal refuses what it holds, or the engine cannot go on with it."""
        self._inbox.post(lambda: self._fail(StepError(ErrorClass.INTERNAL, reason), None))

    def _ask(self, act: Callable[[], None]) -> "asyncio.Future[None]":
        def perform() -> None:
            if self.state.status.final:
                raise Conflict(f"the run is {self.state.status.value} already")
            act()

        answer = self._inbox.ask(perform, self._log.flush)
        if self.done.done():
            self._inbox.perform()
        return answer

    # --- the loop ------------------------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Take the run to its end. Raises Fenced when another engine has taken over."""
        try:
            if self._log.fresh:
                self._log.emit(EventType.RUN_CREATED, data={"workflow_version": self.state.record.workflow_version})
            else:
                await self._recover()
                # Counted for good before anything runs again: what runs next may be what kills the process.
                commit = self._log.flush()
                assert commit is not None
                await commit.wait()
            self._set_deadline()
            # Before any act is performed: what an act sets going (a step to be repeated) is not to be found here again.
            if not self.state.status.final:
                self._ready = deque(plan.all_moves(self._program.graph, self.state))
            self._inbox.perform()
            while not self.state.status.final:
                await self._advance()
                if not self.state.status.final and self.state.open == 0:
                    await self._complete()
                commit = self._log.flush()
                if commit is not None and not self.created.done():
                    self.created.set_result(commit)
                if not self.state.status.final:
                    await self._inbox.filled()
                    self._inbox.perform()
            self._log.flush()
            if self._log.last is not None:
                await self._log.last.wait()
            self.done.set_result(self.state)
            self._inbox.perform()
        finally:
            self._abandon()

    async def _advance(self) -> None:
        """Do everything that needs no waiting."""
        turns = 0
        while not self.state.status.final and not self._env.draining():
            if self._ready:
                step_id, move = self._ready.popleft()
                if move is Move.SKIP:
                    self._skip(step_id, "everything that it needs was skipped")
                else:
                    await self._begin(step_id)
            elif (task := self._next_task()) is not None:
                await self._start(*task)
            else:
                return
            turns += 1
            if turns % _STEPS_PER_TURN == 0:
                self._log.flush()
                await asyncio.sleep(0)
                self._inbox.perform()

    # --- steps ---------------------------------------------------------------------------------------------------

    async def _begin(self, step_id: str) -> None:
        """A step's turn has come: decide whether it runs, and for how many elements."""
        step = self._program.steps[step_id]
        attempts = self._env.attempts
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
            if step.foreach is not None:
                elements = Elements.of(await attempts.resolve(step.foreach, self.state), step.step.concurrency)
                self._log.emit(EventType.FOREACH_EXPANDED, step_id, data={"size": elements.size})
                self._elements[step_id] = elements
                self._settle_elements(step_id, None)
                return
        except StepError as error:
            self._end(attempts.stillborn(step, step_id, NO_ITEM, 1), attempts.never_ran(error))
            return
        await self._start(step_id, NO_ITEM)

    async def _start(self, step_id: str, item: int) -> None:
        """Start the next attempt of a task."""
        step = self._program.steps[step_id]
        task = self.state.steps[step_id].tasks.get(item)
        number = task.attempts + 1 if task else 1
        element = self._elements[step_id].value(item) if item != NO_ITEM else None
        try:
            attempt = await self._env.attempts.prepare(self._program, self.state, step_id, item, number, element)
        except StepError as error:
            self._end(self._env.attempts.stillborn(step, step_id, item, number), self._env.attempts.never_ran(error))
            return
        if attempt.node.lane is Lane.INLINE and self.state.recoveries < _CAREFUL_AFTER:
            self._end(attempt, self._env.attempts.inline(attempt))
            return
        data: dict[str, Any] = {
            "node": attempt.facts.node,
            "node_version": attempt.facts.node_version,
            "effect": attempt.effect.value,
        }
        if attempt.due_at is not None:
            data["due_at"] = attempt.due_at.isoformat()
        self._log.emit(EventType.ATTEMPT_STARTED, step_id, item, number, data)
        commit = self._log.flush()
        if attempt.due_at is not None:
            self._running[step_id, item] = (attempt, None)
            self._set_timer(step_id, item)
        else:
            # An effect must not happen before the journal knows that it may have. What is pure waits for the run to be
            # known: a node that kills the process must not do so again for each client that tries again.
            careful = attempt.effect is not Effect.PURE or self.state.recoveries >= _CAREFUL_AFTER
            first = commit if careful else self._log.first
            self._running[step_id, item] = (attempt, asyncio.create_task(self._run_attempt(attempt, first)))

    async def _run_attempt(self, attempt: Attempt, first: Commit | None) -> None:
        try:
            if first is not None:
                await first.wait()
            outcome = await self._env.attempts.perform(attempt, self.state)
        except Fenced:
            return  # the run is in other hands, or about to be
        except Exception as error:  # noqa: BLE001 -- task boundary: an attempt without an end would hold its run for ever
            _log.exception("an attempt was ended by a fault of the engine", run_id=str(self.state.record.id))
            fault = StepError(ErrorClass.INTERNAL, f"the engine failed ({type(error).__name__})", outcome_unknown=True)
            outcome = self._env.attempts.ended_now(attempt, TraceStatus.ERROR, fault)
        self._inbox.post(lambda: self._ended(attempt, outcome))

    def _ended(self, attempt: Attempt, outcome: Outcome) -> None:
        current = self._running.get((attempt.step_id, attempt.item))
        if current is not None and current[0] is attempt:
            del self._running[attempt.step_id, attempt.item]
            self._end(attempt, outcome)

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Record how an attempt ended and what follows from it."""
        step_id, item = attempt.step_id, attempt.item
        trace = trace_json(attempt.facts, outcome)
        error = outcome.error
        if error is None:
            self._log.emit(
                EventType.ATTEMPT_SUCCEEDED,
                step_id,
                item,
                attempt.number,
                {"trace": trace},
                outcome.output,
                outcome.encoded,
            )
            self._task_settled(step_id, item)
            return
        task = self.state.steps[step_id].tasks.get(item)
        lost = task.lost if task else 0
        policy = self._program.steps[step_id].retry
        delay = None
        if policy.repeats(error.error_class, attempt.effect, error.outcome_unknown):
            chance = self._env.clock.random()
            delay = delay_before_next(policy, attempt.number - lost, error.error_class, error.retry_after, chance)
        self._failed(attempt, trace, error, "fail" if delay is None else "retry", delay or 0.0)
        if delay is None:
            self._task_settled(step_id, item)

    def _failed(
        self,
        attempt: Attempt,
        trace: dict[str, Any],
        error: StepError,
        what_next: str,
        delay: float,
        lost: bool = False,
    ) -> None:
        data: dict[str, Any] = {"trace": trace, "error": error_json(error, attempt.step_id), "next": what_next}
        if lost:
            data["lost"] = True
        if what_next == "retry":
            data["retry_at"] = (self._env.clock.now() + timedelta(seconds=delay)).isoformat()
        self._log.emit(EventType.ATTEMPT_FAILED, attempt.step_id, attempt.item, attempt.number, data)
        if what_next == "retry":
            self._set_timer(attempt.step_id, attempt.item)

    def _task_settled(self, step_id: str, item: int) -> None:
        if item == NO_ITEM:
            self._settled(step_id)
        else:
            self._elements[step_id].finish()
            self._settle_elements(step_id, self.state.steps[step_id].tasks[item])

    def _skip(self, step_id: str, reason: str) -> None:
        self._log.emit(EventType.STEP_SKIPPED, step_id, data={"reason": reason})
        self._settled(step_id)

    def _settled(self, step_id: str) -> None:
        """A step is final: the run fails with it, or those who waited for it move."""
        fatal = plan.fatal_step(self._program.graph, self.state, (step_id,))
        if fatal is not None:
            error = self.state.steps[fatal].error or {}
            self._cancel_attempts("another step failed")
            self._log.emit(EventType.RUN_FAILED, data={"error": error})
        else:
            self._ready.extend(plan.moves_after(self._program.graph, self.state, (step_id,)))

    # --- foreach -------------------------------------------------------------------------------------------------

    def _next_task(self) -> tuple[str, int] | None:
        if self._again:
            return self._again.popleft()
        for step_id, elements in self._elements.items():
            item = elements.take()
            if item is not None:
                return step_id, item
        return None

    def _settle_elements(self, step_id: str, ended: TaskState | None) -> None:
        """Complete or fail a `foreach`, when the element that ended now allows it."""
        step = self.state.steps[step_id]
        if (
            ended is not None
            and ended.status is StepStatus.FAILED
            and not self._program.graph.nodes[step_id].links.continues
        ):
            self._elements.pop(step_id)
            self._cancel_attempts("another element failed", step_id)
            self._again = deque(one for one in self._again if one[0] != step_id)
            self._log.emit(EventType.STEP_FAILED, step_id, data={"error": ended.error})
            self._settled(step_id)
        elif step.finished == step.size:
            self._elements.pop(step_id)
            self._log.emit(EventType.STEP_COMPLETED, step_id)
            self._settled(step_id)

    # --- time ----------------------------------------------------------------------------------------------------

    def _set_timer(self, step_id: str, item: int) -> None:
        due_at = self.state.steps[step_id].tasks[item].due_at
        assert due_at is not None
        self._timers.set((step_id, item), (due_at - self._env.clock.now()).total_seconds())

    def _due(self, step_id: str, item: int) -> None:
        task = self.state.steps[step_id].tasks.get(item)
        if task is None or task.status is not StepStatus.WAITING or task.due_at is None:
            return
        if task.due_at > self._env.clock.now():
            self._set_timer(step_id, item)
            return
        sleeping = self._running.pop((step_id, item), None)
        if sleeping is not None:
            self._end(sleeping[0], self._env.attempts.slept(sleeping[0]))
        else:
            self._again.append((step_id, item))

    def _set_deadline(self) -> None:
        limit = self._program.spec.policies.max_duration
        if limit is None:
            return
        left = limit - (self._env.clock.now() - self.state.record.created_at).total_seconds()
        late = StepError(ErrorClass.TIMEOUT, f"the run took longer than its limit of {limit:g} s")
        self._deadline = asyncio.get_running_loop().call_later(
            max(0.0, left), lambda: self._inbox.post(lambda: self._fail(late, None))
        )

    # --- ends ----------------------------------------------------------------------------------------------------

    async def _complete(self) -> None:
        try:
            outputs = await self._env.attempts.resolve(self._program.outputs, self.state)
        except StepError as error:
            self._log.emit(EventType.RUN_FAILED, data={"error": error_json(error)})
            return
        self._log.emit(EventType.RUN_COMPLETED, payload=outputs)

    def _fail(self, error: StepError, step_id: str | None) -> None:
        if not self.state.status.final:
            self._cancel_attempts(error.message)
            self._log.emit(EventType.RUN_FAILED, data={"error": error_json(error, step_id or "")})

    def _cancel(self, reason: str) -> None:
        self._log.emit(EventType.CANCEL_REQUESTED, data={"reason": reason})
        self._cancel_attempts(reason)
        self._log.emit(EventType.RUN_CANCELLED, data={"reason": reason})

    def _cancel_attempts(self, reason: str, only_step: str | None = None) -> None:
        """Cancel attempts in flight; each has its end recorded now, whether or not its node obeys."""
        for key in [key for key in self._running if only_step in (None, key[0])]:
            attempt, task = self._running.pop(key)
            if task is not None:
                task.cancel()
            outcome = self._env.attempts.ended_now(attempt, TraceStatus.CANCELLED)
            self._log.emit(
                EventType.ATTEMPT_CANCELLED,
                attempt.step_id,
                attempt.item,
                attempt.number,
                {"trace": trace_json(attempt.facts, outcome), "reason": reason},
            )
        self._timers.cancel_all(only_step)

    def _resolve_unknown(self, step_id: str, item: int, outcome: str, output: JsonValue) -> None:
        step = self.state.steps.get(step_id)
        task = step.tasks.get(item) if step else None
        if task is None or task.status is not StepStatus.OUTCOME_UNKNOWN:
            raise Conflict(f"step {step_id!r} does not wait for its outcome to be told")
        self._log.emit(EventType.STEP_RESOLVED, step_id, item, task.attempts, {"outcome": outcome}, output)
        if outcome == "retry":
            self._again.append((step_id, item))
        else:
            self._task_settled(step_id, item)

    # --- recovery ------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Take up a run whose owner died: attempts in flight are lost, timers are set again."""
        self._log.emit(EventType.RUN_RECOVERED, data={"recoveries": self.state.recoveries + 1})
        # First each attempt in flight gets its end, or is known to sleep: the run may fail with any of them, and then
        # none must be left without an end.
        given_up: list[str] = []
        for step_id, step in self.state.steps.items():
            for item, task in step.tasks.items():
                if self._recover_task(step_id, item, task) and item == NO_ITEM:
                    given_up.append(step_id)
        for step_id, step in self.state.steps.items():
            if step.size is not None and not step.status.final and not self.state.status.final:
                await self._recover_elements(step_id)
        for step_id in given_up:
            if not self.state.status.final:
                self._settled(step_id)

    async def _recover_elements(self, step_id: str) -> None:
        """The list of a `foreach` is not stored: what it is made of is, so it is made again."""
        step = self._program.steps[step_id]
        assert step.foreach is not None
        try:
            found = await self._env.attempts.resolve(step.foreach, self.state)
            self._elements[step_id] = Elements.of(found, step.step.concurrency, self.state.steps[step_id].tasks)
        except StepError as error:
            self._fail(error, step_id)
            return
        tasks = self.state.steps[step_id].tasks.values()
        self._settle_elements(step_id, next((task for task in tasks if task.status is StepStatus.FAILED), None))

    def _recover_task(self, step_id: str, item: int, task: TaskState) -> bool:
        """Take up one task; says whether it failed now because it was lost too often."""
        if task.status is StepStatus.RUNNING:
            return self._lose(step_id, item, task)
        if task.status is StepStatus.WAITING:
            if task.attempt_at is not None:
                asleep = self._env.attempts.known(self._program.steps[step_id], self.state, step_id, item, task)
                self._running[step_id, item] = (asleep, None)
            self._set_timer(step_id, item)
        elif task.status is StepStatus.QUEUED and item != NO_ITEM:
            self._again.append((step_id, item))
        return False

    def _lose(self, step_id: str, item: int, task: TaskState) -> bool:
        """An attempt ended with its worker: run it again when that is safe, else ask a person; True: give up."""
        attempt = self._env.attempts.known(self._program.steps[step_id], self.state, step_id, item, task)
        error = StepError(ErrorClass.WORKER_LOST, "the process that ran this attempt ended before it did")
        trace = trace_json(attempt.facts, self._env.attempts.ended_now(attempt, TraceStatus.ERROR, error))
        again = "fail" if task.lost + 1 >= MAX_LOST else "retry"
        what_next = "ask" if task.effect is Effect.UNSAFE else again
        self._failed(attempt, trace, error, what_next, 0.0, lost=True)
        return what_next == "fail"

    def _abandon(self) -> None:
        for _, task in self._running.values():
            if task is not None:
                task.cancel()
        self._timers.cancel_all()
        if self._deadline is not None:
            self._deadline.cancel()
