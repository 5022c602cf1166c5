"""One immutable version of a node: its contract, the function that does the work, and the lane it runs in."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from core.json import JsonValue
from core.manifest import Effect, NodeManifest, NodeStatus
from engine.expression.template import Template
from engine.node.context import StepContext
from engine.node.parameters import Parameters


class Lane(StrEnum):
    """Where a node's function runs."""

    INLINE = "inline"
    """In the owner's event loop, at once: pure and fast, awaits nothing."""
    ASYNC = "async"
    """As an asyncio task: waits on IO, can be cancelled."""
    PROCESS = "process"
    """In a child process that can be killed: a plain function may block or spin."""
    TIMER = "timer"
    """Not at all: the function says how many seconds to wait, the engine keeps the durable timer."""
    WAIT = "wait"
    """Not at all: the function describes what has to happen outside, the engine sleeps until it does."""
    COMPOSITE = "composite"
    """Not at all: the function describes runs, the engine starts them and makes one output of theirs."""
    END = "end"
    """Not at all: the function describes how the run ends, the engine ends it."""

    @property
    def described(self) -> bool:
        """Whether the function only describes what the engine itself does (`NodeVersion.describe`)."""
        return self in {Lane.WAIT, Lane.COMPOSITE, Lane.END}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a child process finds the function again."""

    module: str
    qualname: str
    file: str | None


@dataclass(frozen=True, slots=True, eq=False)
class NodeVersion:
    """A node that can be called.

    Attributes:
        run: the function itself; `call` and `__call__` validate the parameters before it.
        joins: runs even when every parent was skipped, and gets the completed parents' outputs as `inputs`.
        effect_rule: says what running twice means for given parameters, where that differs between calls.
        close: releases what the version holds (connections).
        expands: its output holds `operations` that put further steps into the run's graph.
        label: a name that routes may use instead of the number.
        binding: what it makes of another node; then that one is what is called.
    """

    manifest: NodeManifest
    run: Callable[..., Any]
    lane: Lane
    parameters: Parameters
    joins: bool = False
    effect_rule: Callable[[Mapping[str, JsonValue]], Effect] | None = None
    origin: Origin | None = None
    close: Callable[[], Awaitable[None]] | None = None
    expands: bool = False
    label: str | None = None
    binding: "Binding | None" = None

    def __str__(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"

    def bind(self, values: Mapping[str, JsonValue]) -> dict[str, Any]:
        """Validated keyword arguments for `run`. Raises StepError(INVALID_INPUT)."""
        return self.parameters.bind(values)

    def effect_of(self, values: Mapping[str, JsonValue]) -> Effect:
        """What running twice with these parameters (resolved or not) means."""
        return self.manifest.effect if self.effect_rule is None else self.effect_rule(values)

    def call(self, values: Mapping[str, JsonValue], context: StepContext) -> JsonValue:
        """Run a plain function here and now: the way of the inline lane, and of a child process.

        Raises:
            StepError: INVALID_INPUT, or what the node itself raises.
        """
        result = self.run(**self._arguments(values, context))
        return result if self.parameters.dump is None else self.parameters.dump(result)

    async def __call__(self, values: Mapping[str, JsonValue], context: StepContext) -> JsonValue:
        """Run in the event loop: the way of the async lane; an inline node can be called so too.

        Raises:
            StepError: INVALID_INPUT, or what the node itself raises.
            TypeError: the lane is `process` (see `engine.node.process`), `timer` (see `wake_at`) or one of those that
                describe (see `describe`).
        """
        if self.lane in {Lane.PROCESS, Lane.TIMER} or self.lane.described:
            raise TypeError(f"{self} runs in the {self.lane} lane and cannot be called in the event loop")
        result = self.run(**self._arguments(values, context))
        if inspect.isawaitable(result):
            result = await result
        return result if self.parameters.dump is None else self.parameters.dump(result)

    def wake_at(self, values: Mapping[str, JsonValue], started: datetime) -> datetime:
        """When a step of the timer lane, begun at `started`, is over. Its output is `{}`.

        Raises:
            StepError: INVALID_INPUT.
        """
        seconds: float = self.run(**self.bind(values))
        return started + timedelta(seconds=seconds)

    def describe(self, values: Mapping[str, JsonValue]) -> Any:
        """What the engine shall do: what the function of the lanes `wait`, `composite` and `end` returns.

        Raises:
            StepError: INVALID_INPUT.
        """
        return self.run(**self.bind(values))

    def with_status(self, status: NodeStatus) -> "NodeVersion":
        """The same version at another point of its life."""
        return replace(self, manifest=self.manifest.model_copy(update={"status": status}))

    async def aclose(self) -> None:
        """Release connections; the version can be used again afterwards."""
        if self.close is not None:
            await self.close()

    def _arguments(self, values: Mapping[str, JsonValue], context: StepContext) -> dict[str, Any]:
        arguments = self.parameters.bind(values)
        if self.parameters.context_name is not None:
            arguments[self.parameters.context_name] = context
        return arguments


@dataclass(frozen=True, slots=True)
class Binding:
    """What a bound version makes of its base.

    Attributes:
        base: the version below; it may be bound itself.
        params: its parameters, over `input`, `context` and `run`.
        raw: those of its parameters that are expressions themselves, or are taken as they are written.
        output: what becomes of its output, over `output` and `input`; None: nothing.
    """

    base: NodeVersion
    params: Template
    raw: Mapping[str, JsonValue]
    output: Template | None

    @property
    def depth(self) -> int:
        """How many bindings lie on top of each other, this one included."""
        found, version = 1, self.base
        while version.binding is not None:
            found, version = found + 1, version.binding.base
        return found
