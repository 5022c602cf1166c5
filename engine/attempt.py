"""Prepares attempts: resolves parameters, draws the arm, collects what the trace shall know, and has them performed."""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from core.clock import Clock
from core.errors import ErrorClass, StepError
from core.ids import StepId
from core.json import JsonValue, canonical
from core.manifest import Effect
from core.run import NO_ITEM, StepStatus
from core.trace import TraceStatus, attempt_id
from engine.expression.evaluator import Evaluator
from engine.expression.secret import masked
from engine.expression.template import Template
from engine.features import features
from engine.gate import Gate, Gates, Pass
from engine.node.context import StepContext, idempotency_key
from engine.node.version import Lane, NodeVersion
from engine.outcome import AttemptFacts, Outcome
from engine.parts import ALONE, Parts
from engine.performer import Performer
from engine.program import CompiledStep, Program
from engine.remote.call import RemoteCall
from engine.remote.result import RemoteStatus
from engine.retry import RetryPolicy
from engine.routing.choice import ArmChoice
from engine.scope import scope_of
from engine.serving import Serving, Servings
from engine.state import RunState, TaskState

_UNUSUAL = (Lane.TIMER, Lane.WAIT, Lane.COMPOSITE, Lane.END)
"""Lanes of nodes that are not called: the engine does what they describe."""


class Attempt(NamedTuple):
    """An attempt that is about to start, or has.

    Attributes:
        number: 1 for the first.
        serving: which node version serves it, and with what; secrets are still placeholders.
        gate: what it has to pass before it may start.
        due_at: when it ends by itself, for a node that only waits.
        plan: what the node wants of the engine: a wait, children, the end of the run.
    """

    step: CompiledStep
    step_id: str
    item: int
    number: int
    serving: Serving
    effect: Effect
    facts: AttemptFacts
    context: StepContext | None = None
    gate: Gate | None = None
    due_at: datetime | None = None
    plan: Any = None

    @property
    def lane(self) -> Lane:
        """Where it runs."""
        return self.serving.base.lane

    @property
    def choice(self) -> ArmChoice | None:
        """The arm, when a route decided."""
        return self.serving.choice

    @property
    def retry(self) -> RetryPolicy:
        """The arm's policy, else the step's."""
        choice = self.serving.choice
        return self.step.retry if choice is None or choice.retry is None else RetryPolicy.of(choice.retry)


class Attempts:
    """See the module."""

    def __init__(self, clock: Clock, evaluator: Evaluator, performer: Performer, parts: Parts = ALONE) -> None:
        self._clock = clock
        self._performer = performer
        self._servings = Servings(evaluator, parts.router)
        self._gates = Gates(evaluator, parts)
        self.evaluator = evaluator
        self.parts = parts

    async def resolve(self, template: Template, state: RunState) -> JsonValue:
        """The value of a template in a run. Raises StepError."""
        return await self.evaluator.resolve(template, scope_of(state, self._clock.now()))

    async def prepare(
        self,
        program: Program,
        state: RunState,
        step_id: str,
        item: int,
        number: int,
        element: JsonValue,
        again: TaskState | None = None,
    ) -> Attempt:
        """Resolve the parameters of an attempt, and decide who serves it.

        Args:
            again: the task of an attempt that is under way already, and is only taken up.

        Raises:
            StepError: an expression fails, or no version can serve.
        """
        step = program.steps[step_id]
        now = self._clock.now()
        scope = scope_of(state, now)
        if item != NO_ITEM:
            scope["item"], scope["index"] = element, item
        joined = _joined(program, state, step_id) if step.node.joins else None
        task = state.steps[step_id].tasks.get(item)
        serving = await self._servings.of(program, state, step_id, item, task, scope, joined, now, again is not None)
        params = serving.params
        numbers, texts = features(serving.given, serving.node.manifest.secret_fields)
        effect = step.step.effect or serving.node.effect_of(serving.given if serving.node.binding else params)
        context = self._context(state, step_id, item, number, effect, serving.timeout)
        due_at, plan = self._planned(serving, step, now) if serving.base.lane in _UNUSUAL else (None, None)
        gate = None
        if again is not None:
            due_at, now = again.due_at, again.attempt_at or now
        elif self._gates.stands_before(step, serving, state):
            gate = await self._gates.before(program, state, step, serving, item, number, scope)
        return Attempt(
            step=step,
            step_id=step_id,
            item=item,
            number=number,
            serving=serving,
            effect=effect,
            facts=AttemptFacts(
                node=serving.node.manifest.name,
                node_version=serving.node.manifest.version,
                started_at=now,
                queue_ms=_queued_ms(program, state, step_id, item, now),
                inputs_hash=_hash(serving.given, bool(serving.secret_names)),
                numbers=numbers,
                texts=texts,
                choice=serving.choice,
                timeout=serving.timeout if step.step.timeout is not None or serving.choice is not None else None,
                retry_delay=task.delay if task is not None else None,
            ),
            context=context,
            gate=gate,
            due_at=due_at,
            plan=plan,
        )

    def _planned(self, serving: Serving, step: CompiledStep, now: datetime) -> tuple[datetime | None, Any]:
        base = serving.base
        if base.lane is Lane.TIMER:
            return base.wake_at(serving.params, now), None
        plan = base.describe(serving.params)
        seconds = getattr(plan, "timeout", None) if base.lane is Lane.WAIT else step.step.timeout
        return (None if seconds is None else now + timedelta(seconds=seconds)), plan

    def known(self, step: CompiledStep, program: Program, step_id: str, item: int, task: TaskState) -> Attempt:
        """An attempt that an earlier owner started, as far as the journal knows it."""
        serving = self._servings.known(step, program, task)
        manifest = serving.node.manifest
        facts = AttemptFacts(
            manifest.name, manifest.version, task.attempt_at or self._clock.now(), choice=serving.choice
        )
        return Attempt(step, step_id, item, task.attempts, serving, task.effect, facts, due_at=task.due_at)

    def composed(self, step: CompiledStep, program: Program, step_id: str, item: int, task: TaskState) -> Attempt:
        """A composition that an earlier owner has begun, with the parameters that it was given. Raises StepError."""
        assert task.given is not None
        attempt = self.known(step, program, step_id, item, task)
        base = attempt.serving.base
        while base.binding is not None:
            base = base.binding.base
        serving = attempt.serving._replace(base=base)
        return attempt._replace(serving=serving, plan=base.describe(task.given))

    def stillborn(self, step: CompiledStep, step_id: str, item: int, number: int) -> Attempt:
        """An attempt that fails before its node is called, because an expression does."""
        manifest = step.node.manifest
        facts = AttemptFacts(manifest.name, manifest.version, self._clock.now())
        return Attempt(step, step_id, item, number, Serving.nothing(step), Effect.PURE, facts)

    def inline(self, attempt: Attempt) -> Outcome:
        """Perform an attempt of a quick, pure node at once."""
        assert attempt.context is not None
        return self._performer.inline(attempt.serving.base, attempt.serving.params, attempt.context)

    def goes_away(self, node: NodeVersion) -> bool:
        """Whether a worker process performs attempts of this node."""
        return (
            self.parts.remote is not None
            and node.lane in (Lane.ASYNC, Lane.PROCESS)
            and node.manifest.category not in ("flow", "transform")
        )

    async def perform(self, attempt: Attempt, state: RunState, on_wait: Callable[[str, str], None]) -> Outcome:
        """Perform an attempt with all guards, here or in a worker."""
        assert attempt.context is not None
        serving = attempt.serving
        if self.goes_away(serving.base):
            outcome = await self._perform_away(attempt, state, on_wait)
        else:
            outcome = await self._performer.perform(
                serving.base, serving.params, attempt.context, state.record.workspace, serving.secret_names
            )
        if outcome.error is None and serving.outputs:
            outcome = await self._servings.translated(serving, outcome)
        return outcome

    async def _perform_away(self, attempt: Attempt, state: RunState, on_wait: Callable[[str, str], None]) -> Outcome:
        remote, context, serving = self.parts.remote, attempt.context, attempt.serving
        assert remote is not None
        assert context is not None
        call = RemoteCall(
            workspace=state.record.workspace,
            run_id=state.record.id,
            step_id=StepId(attempt.step_id),
            item=attempt.item,
            attempt=attempt.number,
            node=serving.base.manifest.name,
            node_version=serving.base.manifest.version,
            effect=attempt.effect,
            params=serving.params,
            secret_names=tuple(serving.secret_names),
            idempotency_key=context.idempotency_key,
            timeout=context.timeout,
            workflow=context.workflow,
            session=context.session,
            priority=5 if state.options.priority is None else state.options.priority,
        )
        result = await remote.perform(call, on_wait)
        if result.outcome is None:
            # A task that somebody withdrew is nobody's any more; all else is lost with its worker.
            lost = result.status is RemoteStatus.LOST
            gone = StepError(ErrorClass.CANCELLED, "the task was withdrawn", outcome_unknown=True)
            return Outcome(TraceStatus.CANCELLED, self._elapsed_ms(attempt), error=gone, lost=lost)
        return result.outcome

    async def let_through(self, attempt: Attempt, on_wait: Callable[[str, str], None]) -> Pass:
        """Wait until an attempt may pass its gate."""
        assert attempt.gate is not None
        return await self._gates.let_through(attempt.gate, on_wait)

    def begun_now(self, attempt: Attempt) -> Attempt:
        """The attempt as one that begins only now, after it has waited at its gate."""
        facts, now = attempt.facts, self._clock.now()
        waited = now - facts.started_at
        queued = facts.queue_ms + max(0.0, waited.total_seconds() * 1000)
        due_at = None if attempt.due_at is None else attempt.due_at + waited
        return attempt._replace(facts=facts._replace(started_at=now, queue_ms=queued), due_at=due_at)

    def never_ran(self, error: StepError) -> Outcome:
        """The outcome of a stillborn attempt."""
        return Outcome(TraceStatus.ERROR, 0.0, error=error)

    def gave(self, attempt: Attempt, output: JsonValue) -> Outcome:
        """The outcome of an attempt that only had to wait, and was given this."""
        return Outcome(TraceStatus.OK, self._elapsed_ms(attempt), output)

    def ended_now(self, attempt: Attempt, status: TraceStatus, error: StepError | None = None) -> Outcome:
        """The outcome of an attempt that ends from outside: cancelled, or lost with its worker."""
        return Outcome(status, self._elapsed_ms(attempt), error=error)

    def _elapsed_ms(self, attempt: Attempt) -> float:
        return max(0.0, (self._clock.now() - attempt.facts.started_at).total_seconds() * 1000)

    def _context(
        self, state: RunState, step_id: str, item: int, number: int, effect: Effect, timeout: float
    ) -> StepContext:
        run_id, drives = state.record.id, state.steps[step_id].drives
        key = idempotency_key(run_id, StepId(step_id), item)
        return StepContext(
            run_id=run_id,
            step_id=StepId(step_id),
            item=item,
            attempt=number,
            # What is told to run again after it had succeeded, or with another input, is another effect.
            idempotency_key=f"{key}~{drives}" if drives else key,
            timeout=timeout,
            clock=self._clock,
            evaluator=self.evaluator,
            effect=effect,
            workspace=state.record.workspace,
            workflow=state.record.workflow,
            session=state.options.session,
        )


def task_id_of(state: RunState, attempt: Attempt) -> UUID:
    """The id of the task that a worker performs: the same attempt is the same task."""
    return attempt_id(str(state.record.id), attempt.step_id, attempt.item, attempt.number)


def _joined(program: Program, state: RunState, step_id: str) -> dict[str, JsonValue]:
    """What the completed parents of a joining step gave."""
    needs = sorted(program.graph.nodes[step_id].links.needs)
    return {one: state.steps[one].output for one in needs if state.steps[one].status is StepStatus.COMPLETED}


def _queued_ms(program: Program, state: RunState, step_id: str, item: int, now: datetime) -> float:
    """How long the attempt could have run already."""
    step = state.steps[step_id]
    if item != NO_ITEM and step.started_at is not None:
        ready = step.started_at
    else:
        ready = state.started_at or now
        for other in program.graph.nodes[step_id].waits:
            finished = state.steps[other].finished_at
            if finished is not None and finished > ready:
                ready = finished
    return max(0.0, (now - ready).total_seconds() * 1000)


def _hash(params: dict[str, Any], has_secrets: bool) -> str:
    raw = canonical(masked(params) if has_secrets else params)
    return hashlib.blake2b(raw, digest_size=12).hexdigest()
