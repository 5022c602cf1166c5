"""From what a node describes to the composition that carries it out."""

from typing import TypeAlias

from engine.composition.composition import Composition
from engine.composition.foreach import ForEach, ForEachComposition
from engine.composition.loop import Loop, LoopComposition
from engine.composition.parallel import Parallel, ParallelComposition
from engine.composition.subworkflow import SubWorkflow, SubWorkflowComposition

Description: TypeAlias = SubWorkflow | Parallel | ForEach | Loop


def composition_of(description: Description) -> Composition:
    """The composition that a node of the lane `composite` describes (`NodeVersion.describe`).

    It may be made anew at any time: its first `advance` finds in the children all that it needs.
    """
    match description:
        case SubWorkflow():
            return SubWorkflowComposition(description)
        case Parallel():
            return ParallelComposition(description)
        case ForEach():
            return ForEachComposition(description)
        case Loop():
            return LoopComposition(description)
