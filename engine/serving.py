"""Who serves an attempt, and with what: the arm of a route, the node below a binding, the parameters for it."""

from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from core.errors import ErrorClass, NotFound, StepError
from core.json import JsonError, JsonValue, encode
from core.run import NO_ITEM
from engine.composition.literal import join_literal
from engine.expression.errors import ExpressionError
from engine.expression.evaluator import NEEDS_HOST, Evaluator
from engine.expression.secret import masked
from engine.expression.template import Template, compile_template
from engine.features import features
from engine.node.version import NodeVersion
from engine.outcome import Outcome
from engine.program import CompiledStep, Program, split_parameters
from engine.routing.choice import ArmChoice, ArmWanted
from engine.routing.router import Router
from engine.state import RunState, TaskState


class Serving(NamedTuple):
    """See the module. A tuple: one is made for every attempt, and a frozen dataclass takes four times as long.

    Attributes:
        node: the version that serves, as traces name it.
        base: the version that is executed; another one when `node` is a binding.
        given: what the step passes.
        params: what `base` gets.
        secret_names: secrets that have to be revealed in `params`.
        outputs: what bindings make of the output, innermost first, with the input that each was given.
    """

    node: NodeVersion
    base: NodeVersion
    given: dict[str, Any]
    params: dict[str, Any]
    secret_names: tuple[str, ...]
    timeout: float
    choice: ArmChoice | None = None
    outputs: tuple[tuple[Template, JsonValue], ...] = ()

    @classmethod
    def nothing(cls, step: CompiledStep, node: NodeVersion | None = None, choice: ArmChoice | None = None) -> "Serving":
        """For an attempt of which only the version is known."""
        node = node or step.node
        return cls(node, node, {}, {}, (), step.timeout, choice)


class Servings:
    """Decides them."""

    def __init__(self, evaluator: Evaluator, router: Router | None) -> None:
        self._evaluator = evaluator
        self._router = router

    async def of(
        self,
        program: Program,
        state: RunState,
        step_id: str,
        item: int,
        task: TaskState | None,
        scope: dict[str, JsonValue],
        joined: dict[str, JsonValue] | None,
        now: datetime,
        under_way: bool = False,
    ) -> Serving:
        """Resolve the step's parameters, and find who gets them.

        Args:
            under_way: the attempt has begun already, so its arm is drawn.

        Raises:
            StepError: an expression fails, or the version is not there.
            ArmsBusy: no arm may be called now.
        """
        step = program.steps[step_id]
        given, names = await self._given(step, state, step_id, scope)
        if joined is not None:
            given = {**given, "inputs": joined}
        node, choice = step.node, None
        if self._router is not None and step.within is not None and (under_way or self._is_routed(step, state)):
            choice = await self._choice(step, state, item, task, given, now, under_way)
        if choice is not None:
            node = self._version(program, node.manifest.name, choice.version)
            if _raw_of(node) != _raw_of(step.node):
                given, names = await self._given(_for(step, node), state, step_id, scope)
        timeout = step.timeout if choice is None or choice.timeout is None else choice.timeout
        if node.binding is None:
            return Serving(node, node, given, given, tuple(sorted(names)) if names else (), timeout, choice)
        return await self._bound(Serving(node, node, given, given, tuple(names), timeout, choice), scope)

    async def _choice(
        self,
        step: CompiledStep,
        state: RunState,
        item: int,
        task: TaskState | None,
        given: dict[str, Any],
        now: datetime,
        under_way: bool,
    ) -> ArmChoice | None:
        """The arm, where a route has a say."""
        if under_way:
            return None if task is None or task.route is None else ArmChoice.from_json(task.route)
        assert self._router is not None
        return await self._router.choose(_wanted(state, step, step.node.manifest.name, item, task, given, now))

    def _is_routed(self, step: CompiledStep, state: RunState) -> bool:
        assert self._router is not None
        if step.step.route is not None and step.step.route.weights:
            return True
        return self._router.routed(state.record.workspace, step.node.manifest.name)

    def known(self, step: CompiledStep, program: Program, task: TaskState) -> Serving:
        """What the journal knows of the attempt in flight."""
        if task.route is None:
            return Serving.nothing(step)
        choice = ArmChoice.from_json(task.route)
        try:
            return Serving.nothing(step, self._version(program, step.node.manifest.name, choice.version), choice)
        except StepError:
            return Serving.nothing(step, None, choice)

    async def translated(self, serving: Serving, outcome: Outcome) -> Outcome:
        """What bindings make of an output."""
        output = outcome.output
        try:
            for template, given in serving.outputs:
                output = await self._evaluator.resolve(template, {"output": output, "input": given})
            return replace(outcome, output=output, encoded=encode(output))
        except StepError as error:
            return replace(outcome, status=outcome.status.ERROR, output=None, encoded=None, error=error)
        except JsonError as error:
            bad = StepError(ErrorClass.DECODE, f"the binding's output cannot be stored as JSON: {error}")
            return replace(outcome, status=outcome.status.ERROR, output=None, encoded=None, error=bad)

    async def _given(
        self, step: CompiledStep, state: RunState, step_id: str, scope: dict[str, JsonValue]
    ) -> tuple[dict[str, Any], frozenset[str]]:
        if step_id in state.overrides:
            step = _edited(step, state.overrides[step_id])
        # Nearly always it has a value at once, and a coroutine less is a microsecond less.
        given: Any = self._evaluator.try_resolve(step.params, scope)
        if given is NEEDS_HOST:
            given = await self._evaluator.resolve(step.params, scope)
        if step.raw:
            given = {**given, **step.raw}
        if step.literal:
            given = join_literal(given, step.literal)
        return given, step.params.secret_names

    async def _bound(self, serving: Serving, scope: dict[str, JsonValue]) -> Serving:
        """Walk down the bindings to the node that is executed."""
        base, given, names = serving.base, serving.params, set(serving.secret_names)
        outputs: list[tuple[Template, JsonValue]] = []
        while base.binding is not None:
            binding = base.binding
            visible: JsonValue = masked(given)
            inner = {"input": visible, "context": scope["context"], "run": scope["run"]}
            if binding.output is not None:
                outputs.insert(0, (binding.output, visible))
            given = {**await self._evaluator.resolve(binding.params, inner), **binding.raw}
            names |= binding.params.secret_names
            base = binding.base
        return serving._replace(base=base, params=given, secret_names=tuple(sorted(names)), outputs=tuple(outputs))

    def _version(self, program: Program, name: str, version: str) -> NodeVersion:
        try:
            return program.resolve(f"{name}@{version}")
        except NotFound as error:
            raise StepError(ErrorClass.POLICY, f"the route chose a version that is not there: {error.detail}") from None


def _wanted(
    state: RunState,
    step: CompiledStep,
    name: str,
    item: int,
    task: TaskState | None,
    given: dict[str, Any],
    now: datetime,
) -> ArmWanted:
    record = state.record
    unit = record.unit_key or (str(record.id) if item == NO_ITEM else f"{record.id}:{item}")
    numbers, texts = features(given, step.node.manifest.secret_fields)
    kept = ArmChoice.from_json(task.route).kept if task is not None and task.route is not None else None
    return ArmWanted(
        workspace=record.workspace,
        node=name,
        within=step.within or "",
        unit=unit,
        input=masked(given),
        context=record.context,
        features={**numbers, **texts},
        now=now,
        override=step.step.route,
        kept=kept,
        failed=task.failed_arms if task is not None else (),
    )


def _raw_of(node: NodeVersion) -> tuple[str, ...]:
    return (*node.manifest.expression_fields, *node.manifest.literal_fields)


def _edited(step: CompiledStep, edits: dict[str, Any]) -> CompiledStep:
    """The step with edited parameters in the place of its own, which may be what is wrong with it."""
    changed = step.step.model_copy(update={"with_": {**step.step.with_, **edits}})
    try:
        return _for(replace(step, step=changed), step.node)
    except ExpressionError as error:
        raise StepError(ErrorClass.EXPRESSION, f"the edited parameters: {error}") from None


def _for(step: CompiledStep, node: NodeVersion) -> CompiledStep:
    """The step compiled for a version whose raw fields differ from those of the pinned one."""
    params, raw, literal = split_parameters(step.step.with_, node)
    return replace(step, node=node, params=compile_template(params), raw=raw, literal=literal)
