"""What a composition is asked and what it answers.

A composition is a function of its description and of the children so far, with a memory that only saves time: built
again from the same children after a crash, it answers the same.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from core.errors import StepError
from core.json import JsonValue
from core.run import RunStatus

Evaluate: TypeAlias = Callable[[str, Mapping[str, JsonValue]], Awaitable[JsonValue]]
"""Gives the value of a CEL expression over variables. Raises StepError(EXPRESSION) when it has none."""


class Child(Protocol):
    """A run that was started for an index."""

    @property
    def status(self) -> str:
        """As `core.run.RunStatus` has them."""
        ...

    @property
    def output(self) -> JsonValue:
        """What a completed one gave."""
        ...

    @property
    def error(self) -> dict[str, JsonValue] | None:
        """`{class, message}` of one that failed."""
        ...

    @property
    def tries(self) -> int:
        """How often a run was started for this index."""
        ...


@dataclass(frozen=True, slots=True)
class ChildState:
    """A child as a plain value."""

    index: int
    status: str = RunStatus.RUNNING
    output: JsonValue = None
    error: dict[str, JsonValue] | None = None
    tries: int = 1
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class ChildAsk:
    """A run that shall be started.

    Attributes:
        index: its place in the composition; an index is asked for again when its run failed and is to be repeated.
        workflow: `name` or `name@version`; None when `spec` is given.
        spec: the document of a body that has no workflow of its own.
        label: what people call it (`item 3`, the branch's name).
        context: replaces the parent run's context, when given.
    """

    index: int
    workflow: str | None
    spec: dict[str, Any] | None
    input: JsonValue
    label: str
    context: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The composition is over and well."""

    output: JsonValue


@dataclass(frozen=True, slots=True)
class Progress:
    """What shall happen now.

    Attributes:
        start: runs that may start; asked for again until they stand among the children.
        cancel: children under way whose results are not wanted any more; also given with `done` and `failed`.
        wake_at_delay: when given, what is in `start` may start only this many seconds after the last child has ended.
        done: the step is completed.
        failed: the step has failed.
    """

    start: tuple[ChildAsk, ...] = ()
    cancel: tuple[int, ...] = ()
    wake_at_delay: float | None = None
    done: Finished | None = None
    failed: StepError | None = None


class Composition(Protocol):
    """See the module."""

    async def advance(
        self, children: Mapping[int, Child], evaluate: Evaluate, ended: Iterable[int] | None = None
    ) -> Progress:
        """What follows from the children.

        Args:
            children: all runs started so far, by index.
            evaluate: for compositions that hold an expression.
            ended: the indices that have ended since the last call. A caller that says so makes each call cost what
                has changed; without it, all children that were under way are looked at.
        """
        ...


ENDED = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
"""Statuses after which nothing more happens to a child."""
