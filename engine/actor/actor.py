"""One run, in the hands of its owner.

The actor is the only one that changes the run's state. It takes what happened (an attempt ended, a timer is due, a
person wants something) from its inbox, folds events over the state, and starts what the plan allows. Events go to
the group commit in order; nothing that touches the outside starts before the event that says so is durable.
Pure steps may run ahead of the commit: if it never comes nobody has seen them, and running them again does no harm.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from core.command import Command, Redrive
from core.errors import Conflict, ErrorClass, StepError, Unavailable
from core.ids import RunId
from core.json import JsonValue
from core.manifest import Effect
from core.run import NO_ITEM, EventType, Parent, StepStatus
from core.trace import TraceStatus
from engine import plan
from engine.actor.change import Change, Stale
from engine.actor.commands import perform_command
from engine.actor.conduct import Conduct
from engine.actor.environment import ActorEnvironment
from engine.actor.recovery import recover
from engine.actor.waits import wait_json
from engine.attempt import Attempt
from engine.commit import Commit
from engine.elements import Elements
from engine.expression.secret import masked
from engine.gate import Pass
from engine.node.version import Lane
from engine.nodes.flow.end import End
from engine.outcome import Outcome, error_json, trace_json
from engine.plan import Move
from engine.program import Program
from engine.routing.choice import ArmsBusy
from engine.state import RunState, TaskState

_STEPS_PER_TURN = 25
"""Inline steps after which other tasks of the loop get their turn."""

_CAREFUL_AFTER = 3
"""Recoveries after which pure steps, too, announce themselves: one of them may be what kills the process."""


class Over(Conflict):
    """The run has ended, and its actor is about to go."""


class RunActor(Conduct):
    """See the module. `done` is resolved with the final state once that is durable.

    Args:
        reopened: the run had ended, and somebody has asked for something that makes it go on.
    """

    def __init__(
        self, environment: ActorEnvironment, program: Program, state: RunState, reopened: bool = False
    ) -> None:
        super().__init__(environment, program, state)
        self._reopened = reopened
        self._ending: End | None = None
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
        self.disowned = True

    def close(self) -> None:
        """The run is out of this engine's hands: whoever waits for its end here waits in vain."""
        if not self.created.done():
            self.created.cancel()
        if not self.done.done():
            self.done.cancel()
        self.inbox.close()
        # They point back at the actor. Without them it goes at once, not when garbage is next collected.
        for helper in ("admission", "children", "waits", "rescue", "expansion", "timers"):
            self.__dict__.pop(helper, None)

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
                    self.skip(step_id, plan.why_skipped(self.program.graph, step_id))
                else:
                    await self._begin(step_id)
            elif (task := self.next_task()) is not None:
                await self._start(*task)
            else:
                return
            turns += 1
            if turns % _STEPS_PER_TURN == 0 and self._ending is None and not self.rescue.wanted:
                self.log.flush()
                await asyncio.sleep(0)
                self.inbox.perform()

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
                    self.skip(step_id, "its condition is false")
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
        given = None
        if attempt.lane is Lane.COMPOSITE and self.program.uses_variables:
            given = attempt.serving.params  # later it could be something else
        self.log.emit(EventType.ATTEMPT_STARTED, attempt.step_id, attempt.item, attempt.number, data, given)
        return self.log.flush()

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

    def change_graph(self, change: Change, command: Command) -> "asyncio.Future[None]":
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
        if self.deadline is not None:
            self.deadline.cancel()
