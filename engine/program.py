"""A workflow version made ready to run: its graph, its templates, and the node version that each step uses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.json import JsonValue
from core.manifest import Effect
from core.spec import Step, UseStep, WorkflowSpec
from engine.expression.template import Template, compile_template
from engine.graph import Graph, StepLinks, build
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
    """

    step: Step
    node: NodeVersion
    params: Template
    raw: Mapping[str, JsonValue]
    when: Template | None
    foreach: Template | None
    retry: RetryPolicy
    timeout: float

    def effect(self, params: Mapping[str, Any]) -> Effect:
        """What running the step twice means: as the step says, else as the node says of these parameters."""
        return self.step.effect or self.node.effect_of(params)


@dataclass(frozen=True, slots=True)
class Program:
    """See the module. `pins` is the exact version of each step's node, kept with the run."""

    spec: WorkflowSpec
    graph: Graph
    steps: Mapping[str, CompiledStep]
    outputs: Template
    fallbacks: dict[str, str]
    pins: dict[str, str]


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
        name = step.node.partition("@")[0]
        node = resolve(f"{name}@{pins[step.id]}" if step.id in pins else step.node)
        on_error = step.on_error or spec.policies.on_error
        compiled = CompiledStep(
            step=step,
            node=node,
            params=compile_template({k: v for k, v in step.with_.items() if k not in node.manifest.expression_fields}),
            raw={k: v for k, v in step.with_.items() if k in node.manifest.expression_fields},
            when=None if step.when is True else compile_template(step.when),
            foreach=None if step.foreach is None else compile_template(step.foreach),
            retry=RetryPolicy.of(step.retry),
            timeout=step.timeout if step.timeout is not None else DEFAULT_TIMEOUT,
        )
        steps[step.id] = compiled
        links.append(
            StepLinks(
                id=step.id,
                needs=frozenset(step.needs) | inferred_needs(step, node.manifest.expression_fields),
                fallback=on_error.use if isinstance(on_error, UseStep) else None,
                continues=on_error == "continue",
                joins=node.joins,
            )
        )
    return Program(
        spec=spec,
        graph=build(links),
        steps=steps,
        outputs=compile_template(spec.outputs),
        fallbacks={one.id: one.fallback for one in links if one.fallback},
        pins={step: compiled.node.manifest.version for step, compiled in steps.items()},
    )
