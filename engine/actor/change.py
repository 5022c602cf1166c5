"""A change of a run's graph, between the moment it is worked out and the moment it takes effect."""

from dataclasses import dataclass
from typing import Any

from core.errors import Conflict
from engine.program import Program


@dataclass(frozen=True, slots=True)
class Change:
    """What a graph shall become.

    Attributes:
        base: the document of the run when this was made.
        touched: steps that it changes or removes.
    """

    base: dict[str, Any] | None
    document: dict[str, Any]
    program: Program
    touched: frozenset[str]


class Stale(Conflict):
    """The run has moved on since the change was prepared."""
