"""What stands before a run and its attempts: limits, equal calls under way. And giving back what they were given."""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from core.errors import ErrorClass, StepError, Unavailable
from core.journal import Fenced
from core.json import encode
from core.limit import SlotAsk
from core.run import EventType, StepStatus
from core.trace import TraceStatus
from engine.actor.host import RunHost
from engine.attempt import Attempt
from engine.gate import Pass, holder_of
from engine.limits.limiter import Limiter, Slots
from engine.limits.scope import workflow_scope
from engine.outcome import Outcome
from engine.timers import TaskKey
from engine.variables import begin_with

_log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 0.5


class Admission:
    """See the module. Room for the run is kept until it ends, also over restarts; that for an attempt while it runs."""

    def __init__(self, actor: RunHost) -> None:
        self._actor = actor
        self._asking: dict[TaskKey, tuple[Attempt, asyncio.Task[None]]] = {}
        self._passes: dict[TaskKey, tuple[Attempt, Pass]] = {}
        self._room: Slots | None = None
        self._waiting_for_room: asyncio.Task[None] | None = None
        self._loose: set[asyncio.Task[None]] = set()

    # --- the run -------------------------------------------------------------------------------------------------

    async def create(self) -> None:
        """The first event of a run. It waits as `queued` when its workflow has a limit."""
        actor = self._actor
        state, options = actor.state, actor.state.options
        data: dict[str, Any] = {"workflow_version": state.record.workflow_version, **_told(actor)}
        payload: dict[str, Any] = {}
        if options.restored:
            payload["restored"] = options.restored
        if options.spec is not None:
            payload["spec"] = options.spec
        if actor.program.uses_variables:
            payload["variables"] = await self._variables()
        if actor.program.limit is not None and actor.env.parts.limiter is not None:
            data["queued"] = {"reason": "concurrency_limit"}
        actor.log.emit(EventType.RUN_CREATED, data=data, payload=payload or None)
        if state.queued:
            self.seek_room()

    async def _variables(self) -> dict[str, Any]:
        actor = self._actor
        record = actor.state.record
        now = actor.env.clock.now()
        stored = {}
        if actor.env.parts.variables is not None:
            stored = await actor.env.parts.variables.visible(
                record.workspace, record.workflow, actor.state.options.session, now
            )
        seen = begin_with(actor.program.spec.variables, stored, now)
        return {
            name: {
                "value": one.value,
                "scope": one.scope.value,
                "expires_at": None if one.expires_at is None else one.expires_at.isoformat(),
            }
            for name, one in seen.items()
        }

    def seek_room(self) -> None:
        """Ask for room for the run, or take up the room that it has."""
        if self._actor.program.limit is not None and self._actor.env.parts.limiter is not None:
            self._waiting_for_room = asyncio.create_task(self._seek_room())

    async def _seek_room(self) -> None:
        actor = self._actor
        limiter, limit = actor.env.parts.limiter, actor.program.limit
        assert limiter is not None
        assert limit is not None
        rule, template = limit
        try:
            await self._durable()
            key = None if template is None else await actor.env.attempts.resolve(template, actor.state)
            record = actor.state.record
            priority = actor.state.options.priority
            ask = SlotAsk(
                scope=workflow_scope(record.workflow_id, key, template is not None),
                max=rule.max,
                rate=None,
                holder=str(record.id),
                run_id=record.id,
                workflow=str(record.workflow_id),
                priority=actor.program.spec.policies.priority if priority is None else priority,
            )
            self._room = await self._acquired(limiter, ask, self._no_room if rule.overflow == "fail" else _patient)
        except StepError as error:
            refused = error
            actor.inbox.post(lambda: actor.fail(refused))
        except Fenced:
            return
        else:
            actor.inbox.post(self._admitted)

    async def _acquired(self, limiter: Limiter, ask: SlotAsk, on_wait: Callable[[str, str], None]) -> Slots:
        while True:
            try:
                return await limiter.acquire((ask,), on_wait)
            except Unavailable as error:
                _log.warning("a run waits for the database", detail=error.detail)
                await asyncio.sleep(_AGAIN_SECONDS)

    def _no_room(self, _: str, detail: str) -> None:
        error = StepError(ErrorClass.POLICY, f"the workflow takes no further run now: {detail}")
        self._actor.inbox.post(lambda: self._actor.fail(error))

    def _admitted(self) -> None:
        actor = self._actor
        if actor.state.queued and not actor.state.status.final:
            actor.log.emit(EventType.RUN_ADMITTED)
            actor.set_deadline()

    async def tidy(self) -> None:
        """Give back the room of attempts that the last owner had under way and that do not run again by themselves."""
        actor = self._actor
        limiter = actor.env.parts.limiter
        if limiter is None:
            return
        run_id = actor.state.record.id
        keep = [str(run_id)]
        for step_id, step in actor.state.steps.items():
            for item, task in step.tasks.items():
                if not task.status.final and task.status is not StepStatus.OUTCOME_UNKNOWN:
                    keep.append(holder_of(run_id, step_id, item))
        try:
            await limiter.release_run(run_id, keep)
        except Unavailable as error:
            _log.warning("room is given back when the run ends", detail=error.detail)

    def leave_room(self) -> None:
        """The run is over: whoever waits behind it may begin."""
        if self._waiting_for_room is not None:
            self._waiting_for_room.cancel()
        if self._room is not None:
            self._room.release()
            self._room = None

    # --- attempts ------------------------------------------------------------------------------------------------

    def ask(self, attempt: Attempt) -> None:
        """Have an attempt wait at its gate; it goes on by itself."""
        key = (attempt.step_id, attempt.item)
        self._asking[key] = (attempt, asyncio.create_task(self._ask(attempt)))

    async def _ask(self, attempt: Attempt) -> None:
        actor = self._actor

        def on_wait(reason: str, detail: str) -> None:
            actor.inbox.post(lambda: self._waits(attempt, reason, detail))

        try:
            await self._durable()
            got = await self._patiently(attempt, on_wait)
        except Fenced:
            return
        except StepError as error:
            refused = error
            actor.inbox.post(lambda: self._refused(attempt, refused))
            return
        actor.inbox.post(lambda: self._through(attempt, got))

    async def _patiently(self, attempt: Attempt, on_wait: Callable[[str, str], None]) -> Pass:
        while True:
            try:
                return await self._actor.env.attempts.let_through(attempt, on_wait)
            except Unavailable as error:
                _log.warning("an attempt waits for the database", detail=error.detail)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _durable(self) -> None:
        """Room is given to runs that exist."""
        commit = self._actor.log.first or self._actor.log.flush()
        if commit is not None:
            await commit.wait()

    def asks(self, key: TaskKey) -> bool:
        """Whether the next attempt of a task is at its gate."""
        return key in self._asking

    def _is_current(self, attempt: Attempt) -> bool:
        current = self._asking.get((attempt.step_id, attempt.item))
        return current is not None and current[0] is attempt

    def _waits(self, attempt: Attempt, reason: str, detail: str) -> None:
        if self._is_current(attempt):
            data = {"reason": reason, "detail": detail}
            self._actor.log.emit(EventType.STEP_WAITING, attempt.step_id, attempt.item, data=data)

    def _refused(self, attempt: Attempt, error: StepError) -> None:
        if self._is_current(attempt):
            del self._asking[attempt.step_id, attempt.item]
            self._actor.end(attempt, self._actor.env.attempts.never_ran(error))

    def _through(self, attempt: Attempt, got: Pass) -> None:
        actor = self._actor
        if not self._is_current(attempt):
            self._give_back(got)
            return
        key = (attempt.step_id, attempt.item)
        del self._asking[key]
        if actor.state.holding or actor.env.draining():
            self._give_back(got)
            self._note_arm(attempt, None)
            actor.again.append(key)
            return
        begun = actor.env.attempts.begun_now(attempt)
        self._passes[key] = (begun, got)
        actor.passed(begun, got)

    def end(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """An attempt is over (None: with its worker): others get its room and, if there is one, its result."""
        self._note_arm(attempt, outcome)
        key = (attempt.step_id, attempt.item)
        current = self._passes.get(key)
        if current is None or current[0] is not attempt:
            return
        encoded = None
        if outcome is not None and outcome.error is None and outcome.status is TraceStatus.OK and not outcome.cached:
            encoded = outcome.encoded if outcome.encoded is not None else encode(outcome.output)
        self._give_back(self._passes.pop(key)[1], encoded)

    def _note_arm(self, attempt: Attempt, outcome: Outcome | None) -> None:
        router, choice = self._actor.env.parts.router, attempt.choice
        if router is None or choice is None:
            return
        counts = outcome is not None and not outcome.cached and outcome.status is not TraceStatus.CANCELLED
        error = outcome.error if outcome is not None else None
        workspace = self._actor.state.record.workspace
        router.record(workspace, attempt.facts.node, choice, error.error_class.value if error else None, counts)

    def cancel(self, only_steps: set[str] | None) -> None:
        """Attempts at their gates go away."""
        for key in [key for key in self._asking if only_steps is None or key[0] in only_steps]:
            attempt, task = self._asking.pop(key)
            task.cancel()
            self._note_arm(attempt, None)

    def abandon(self) -> None:
        """The run changes hands, and keeps its room: the next owner asks under the same names."""
        for _, task in self._asking.values():
            task.cancel()
        if self._waiting_for_room is not None:
            self._waiting_for_room.cancel()

    def _give_back(self, got: Pass, encoded: bytes | None = None) -> None:
        task = asyncio.create_task(got.give_back(encoded))
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)


def _told(actor: RunHost) -> dict[str, Any]:
    """What the run was given besides its input, as far as it was given anything."""
    options = actor.state.options
    told: dict[str, Any] = {}
    if options.breakpoints:
        told["breakpoints"] = list(options.breakpoints)
    if options.priority is not None:
        told["priority"] = options.priority
    if options.session:
        told["session"] = options.session
    if options.restarted_from is not None:
        told["restarted_from"] = str(options.restarted_from)
    if options.parent is not None:
        parent = options.parent
        told["parent"] = {
            "run_id": str(parent.run_id),
            "step_id": parent.step_id,
            "item": parent.item,
            "index": parent.index,
            "depth": parent.depth,
        }
    return told


def _patient(_reason: str, _detail: str) -> None:
    """A queued run says so from the beginning."""
