"""What can happen next in a run. Pure: a function of the graph and of the state."""

from collections.abc import Iterable
from enum import Enum

from core.run import StepStatus
from engine.graph import Graph
from engine.state import RunState


class Move(Enum):
    """What to do with a step whose turn has come."""

    START = "start"
    SKIP = "skip"


def decide(graph: Graph, state: RunState, step_id: str) -> Move | None:
    """What to do with a queued step; None when it is not its turn, or it is on its way already.

    A step starts when everything that it waits for is settled. It is skipped when all that it needs was skipped
    (unless it joins branches), or when it is a fallback and none of the steps that it rescues has failed.
    """
    if state.steps[step_id].status is not StepStatus.QUEUED:
        return None
    node = graph.nodes[step_id]
    for other in node.waits:
        if not state.steps[other].status.final:
            return None
    if node.rescues and not any(state.steps[one].status is StepStatus.FAILED for one in node.rescues):
        return Move.SKIP
    needs = node.links.needs
    if (
        needs
        and not node.links.joins
        and not node.rescues
        and all(state.steps[one].status is StepStatus.SKIPPED for one in needs)
    ):
        return Move.SKIP
    return Move.START


def moves_after(graph: Graph, state: RunState, changed: Iterable[str]) -> list[tuple[str, Move]]:
    """The moves that became possible because the steps in `changed` were settled."""
    candidates = dict.fromkeys(dependent for step in changed for dependent in graph.nodes[step].dependents)
    return [(step, move) for step in candidates if (move := decide(graph, state, step)) is not None]


def all_moves(graph: Graph, state: RunState) -> list[tuple[str, Move]]:
    """Every move that is possible now, in topological order: for a new or a recovered run."""
    return [(step, move) for step in graph.order if (move := decide(graph, state, step)) is not None]


def fatal_step(graph: Graph, state: RunState, changed: Iterable[str]) -> str | None:
    """The failed step that ends the run because `changed` were settled, if any.

    It is one of `changed` that neither continues nor has a fallback, or one whose fallback is in `changed` and was
    skipped: a fallback that declines (its `when` is false) leaves the failure standing.
    """
    for step in changed:
        node = graph.nodes[step]
        status = state.steps[step].status
        if status is StepStatus.FAILED and not node.links.continues and node.links.fallback is None:
            return step
        if status is StepStatus.SKIPPED:
            for rescued in node.rescues:
                if state.steps[rescued].status is StepStatus.FAILED:
                    return rescued
    return None
