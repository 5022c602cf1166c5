"""Steps that start runs of their own and make one output of theirs: what to start next, and when it is enough."""

from engine.composition.compose import Description, composition_of
from engine.composition.composition import (
    Child,
    ChildAsk,
    ChildState,
    Composition,
    Evaluate,
    Finished,
    Progress,
)

__all__ = [
    "Child",
    "ChildAsk",
    "ChildState",
    "Composition",
    "Description",
    "Evaluate",
    "Finished",
    "Progress",
    "composition_of",
]
