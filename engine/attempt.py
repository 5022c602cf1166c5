"""Prepares attempts: resolves parameters, collects what the trace shall know, and hands them to the performer."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.clock import Clock
from core.errors import StepError
from core.ids import StepId
from core.json import JsonValue, canonical
from core.manifest import Effect
from core.run import NO_ITEM, StepStatus
from core.trace import TraceStatus
from engine.expression.evaluator import Evaluator
from engine.expression.secret import masked
from engine.expression.template import Template
from engine.features import features
from engine.node.context import StepContext, idempotency_key
from engine.node.version import Lane, NodeVersion
from engine.outcome import AttemptFacts, Outcome
from engine.performer import Performer
from engine.program import CompiledStep, Program
from engine.state import RunState, TaskState


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that is about to start, or has.

    Attributes:
        number: 1 for the first.
        params: resolved; secrets are still placeholders.
        due_at: when it ends by itself, for a node that only waits.
    """

    step: CompiledStep
    step_id: str
    item: int
    number: int
    params: dict[str, Any]
    effect: Effect
    facts: AttemptFacts
    context: StepContext | None = None
    due_at: datetime | None = None

    @property
    def node(self) -> NodeVersion:
        """The node version that serves it."""
        return self.step.node


class Attempts:
    """See the module."""

    def __init__(self, clock: Clock, evaluator: Evaluator, performer: Performer) -> None:
        self._clock = clock
        self._evaluator = evaluator
        self._performer = performer

    async def resolve(self, template: Template, state: RunState) -> JsonValue:
        """The value of a template in a run. Raises StepError."""
        return await self._evaluator.resolve(template, _scope(state))

    async def prepare(
        self, program: Program, state: RunState, step_id: str, item: int, number: int, element: JsonValue
    ) -> Attempt:
        """Resolve the parameters of an attempt.

        Raises:
            StepError: an expression fails.
        """
        step = program.steps[step_id]
        now = self._clock.now()
        scope = _scope(state)
        if item != NO_ITEM:
            scope["item"], scope["index"] = element, item
        params: dict[str, Any] = await self._evaluator.resolve(step.params, scope)
        if step.raw:
            params = {**params, **step.raw}
        if step.node.joins:
            params = {**params, "inputs": _joined(program, state, step_id)}
        numbers, texts = features(params, step.node.manifest.secret_fields)
        effect = step.effect(params)
        return Attempt(
            step=step,
            step_id=step_id,
            item=item,
            number=number,
            params=params,
            effect=effect,
            facts=AttemptFacts(
                node=step.node.manifest.name,
                node_version=step.node.manifest.version,
                started_at=now,
                queue_ms=_queued_ms(program, state, step_id, item, now),
                inputs_hash=_hash(params, bool(step.params.secret_names)),
                numbers=numbers,
                texts=texts,
            ),
            context=self._context(state, step, step_id, item, number, effect),
            due_at=step.node.wake_at(params, now) if step.node.lane is Lane.TIMER else None,
        )

    def known(self, step: CompiledStep, state: RunState, step_id: str, item: int, task: TaskState) -> Attempt:
        """An attempt that an earlier owner started, as far as the journal knows it."""
        manifest = step.node.manifest
        started = task.attempt_at or self._clock.now()
        facts = AttemptFacts(manifest.name, manifest.version, started)
        return Attempt(step, step_id, item, task.attempts, {}, task.effect, facts, due_at=task.due_at)

    def stillborn(self, step: CompiledStep, step_id: str, item: int, number: int) -> Attempt:
        """An attempt that fails before its node is called, because an expression does."""
        manifest = step.node.manifest
        facts = AttemptFacts(manifest.name, manifest.version, self._clock.now())
        return Attempt(step, step_id, item, number, {}, Effect.PURE, facts)

    def inline(self, attempt: Attempt) -> Outcome:
        """Perform an attempt of a quick, pure node at once."""
        assert attempt.context is not None
        return self._performer.inline(attempt.node, attempt.params, attempt.context)

    async def perform(self, attempt: Attempt, state: RunState) -> Outcome:
        """Perform an attempt with all guards."""
        assert attempt.context is not None
        return await self._performer.perform(
            attempt.node,
            attempt.params,
            attempt.context,
            state.record.workspace,
            sorted(attempt.step.params.secret_names),
        )

    def never_ran(self, error: StepError) -> Outcome:
        """The outcome of a stillborn attempt."""
        return Outcome(TraceStatus.ERROR, 0.0, error=error)

    def slept(self, attempt: Attempt) -> Outcome:
        """The outcome of an attempt that only had to wait."""
        return Outcome(TraceStatus.OK, self._elapsed_ms(attempt), {}, b"{}")

    def ended_now(self, attempt: Attempt, status: TraceStatus, error: StepError | None = None) -> Outcome:
        """The outcome of an attempt that ends from outside: cancelled, or lost with its worker."""
        return Outcome(status, self._elapsed_ms(attempt), error=error)

    def _elapsed_ms(self, attempt: Attempt) -> float:
        return max(0.0, (self._clock.now() - attempt.facts.started_at).total_seconds() * 1000)

    def _context(
        self, state: RunState, step: CompiledStep, step_id: str, item: int, number: int, effect: Effect
    ) -> StepContext:
        run_id = state.record.id
        return StepContext(
            run_id=run_id,
            step_id=StepId(step_id),
            item=item,
            attempt=number,
            idempotency_key=idempotency_key(run_id, StepId(step_id), item),
            timeout=step.timeout,
            clock=self._clock,
            evaluator=self._evaluator,
            effect=effect,
        )


def _scope(state: RunState) -> dict[str, JsonValue]:
    """What expressions may refer to. It holds nothing that changes from one reading to the next."""
    record = state.record
    return {
        "input": record.input,
        "steps": state.view,
        "context": record.context,
        "vars": {},
        "run": {
            "id": str(record.id),
            "workflow": record.workflow,
            "workflow_version": record.workflow_version,
            "created_at": record.created_at.isoformat(),
        },
    }


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
