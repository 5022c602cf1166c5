"""A workflow version made ready to run: its graph, its templates, and the node version that each step uses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.json import JsonValue
from core.manifest import Effect
from core.spec import RunLimit, Step, UseStep, WorkflowSpec
from engine.composition.literal import split_literal
from engine.expression.template import Template, compile_template
from engine.graph import Graph, StepLinks, build, quorum_of
from engine.node.version import NodeVersion
from engine.references import inferred_needs
from engine.retry import RetryPolicy

DEFAULT_TIMEOUT = 300.0
"""Seconds that an attempt may take when its step does not say."""


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step with everything parsed.

    Attributes:
        params: the parameters in which expressions are resolved.
        raw: parameters that are expressions themselves; the node gets their text.
        literal: parts that hold steps of their own, in their places; the node gets them as they are.
        within: the versions that a route may choose from: "" for all, or a range such as `^1`; None when the step
            names one exact version and no route applies.
    """

    step: Step
    node: NodeVersion
    params: Template
    raw: Mapping[str, JsonValue]
    literal: Mapping[str, JsonValue]
    when: Template | None
    foreach: Template | None
    retry: RetryPolicy
    timeout: float
    within: str | None
    cache_key: Template | None
    limit_key: Template | None

    def effect(self, params: Mapping[str, Any]) -> Effect:
        """What running the step twice means: as the step says, else as the node says of these parameters."""
        return self.step.effect or self.node.effect_of(params)


@dataclass(frozen=True, slots=True)
class Program:
    """See the module.

    Attributes:
        pins: the exact version of each step's node, kept with the run.
        limit: how many runs may be under way at once, with the template of the key.
        uses_variables: whether any expression refers to `vars`, or the spec declares some.
        resolve: finds other node versions, for the arms of a route.
    """

    spec: WorkflowSpec
    graph: Graph
    steps: Mapping[str, CompiledStep]
    outputs: Template
    fallbacks: dict[str, str]
    pins: dict[str, str]
    limit: tuple[RunLimit, Template | None] | None
    uses_variables: bool
    resolve: Callable[[str], NodeVersion]


def compile_program(spec: WorkflowSpec, resolve: Callable[[str], NodeVersion], pins: Mapping[str, str]) -> Program:
    """Make a validated spec ready.

    Args:
        resolve: finds a node version by reference (`name`, `name@1.2.0`, `name@^1`).
        pins: versions to use instead of resolving again, by step: for a run that exists already.

    Raises:
        NotFound: a node version does not exist (any more).
    """
    steps: dict[str, CompiledStep] = {}
    links: list[StepLinks] = []
    for step in spec.steps:
        name, _, wanted = step.node.partition("@")
        node = resolve(f"{name}@{pins[step.id]}" if step.id in pins else step.node)
        on_error = step.on_error or spec.policies.on_error
        params, raw, literal = split_parameters(step.with_, node)
        compiled = CompiledStep(
            step=step,
            node=node,
            params=compile_template(params),
            raw=raw,
            literal=literal,
            when=None if step.when is True else compile_template(step.when),
            foreach=None if step.foreach is None else compile_template(step.foreach),
            retry=RetryPolicy.of(step.retry),
            timeout=step.timeout if step.timeout is not None else DEFAULT_TIMEOUT,
            within=wanted if wanted[:1] in ("", "^", "~") else None,
            cache_key=_optional(step.cache.key if step.cache else None),
            limit_key=_optional(step.limit.key if step.limit else None),
        )
        steps[step.id] = compiled
        links.append(
            StepLinks(
                id=step.id,
                needs=frozenset(step.needs)
                | inferred_needs(step, node.manifest.expression_fields, node.manifest.literal_fields),
                fallback=on_error.use if isinstance(on_error, UseStep) else None,
                continues=on_error == "continue",
                joins=node.joins,
                quorum=quorum_of(node.manifest.name, step.with_),
            )
        )
    return Program(
        spec=spec,
        graph=build(links),
        steps=steps,
        outputs=compile_template(spec.outputs),
        fallbacks={one.id: one.fallback for one in links if one.fallback},
        pins={step: compiled.node.manifest.version for step, compiled in steps.items()},
        limit=_limit(spec),
        uses_variables=bool(spec.variables) or _refers_to_variables(spec),
        resolve=resolve,
    )


def split_parameters(
    with_: Mapping[str, JsonValue], node: NodeVersion
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a step passes: the part with expressions, parameters that are CEL, parts that are taken literally."""
    rest, literal = split_literal(with_, node.manifest.literal_fields) if node.manifest.literal_fields else (with_, {})
    fields = node.manifest.expression_fields
    return {k: v for k, v in rest.items() if k not in fields}, {k: v for k, v in rest.items() if k in fields}, literal


def _optional(source: str | None) -> Template | None:
    return None if source is None else compile_template(source)


def _limit(spec: WorkflowSpec) -> tuple[RunLimit, Template | None] | None:
    limit = spec.policies.concurrency
    if limit is None:
        return None
    if isinstance(limit, int):
        limit = RunLimit(max=limit)
    return limit, _optional(limit.key)


def _refers_to_variables(spec: WorkflowSpec) -> bool:
    """Whether `vars` stands anywhere in the document: reading variables that nobody uses does no harm."""
    return b"vars" in spec.model_dump_json(exclude_unset=True).encode()
