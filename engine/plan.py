"""What can happen next in a run. Pure: a function of the graph and of the state."""

from collections.abc import Collection, Iterable
from enum import Enum

from core.run import StepStatus
from engine.graph import Graph, GraphNode
from engine.state import RunState


class Move(Enum):
    """What to do with a step whose turn has come."""

    START = "start"
    SKIP = "skip"


def decide(graph: Graph, state: RunState, step_id: str) -> Move | None:
    """What to do with a queued step; None when it is not its turn, or it is on its way already.

    A step starts when everything that it waits for is settled. It is skipped when all that it needs was skipped
    (unless it joins branches), or when it is a fallback and none of the steps that it rescues has failed.

    A step with a quorum starts as soon as that many of its needs are completed, whatever becomes of the others. It is
    skipped when everything is settled and fewer are.
    """
    if state.steps[step_id].status is not StepStatus.QUEUED:
        return None
    node = graph.nodes[step_id]
    quorum = node.links.quorum
    if quorum is not None and not node.rescues:
        return _by_quorum(node, state, quorum)
    for other in node.waits:
        if not state.steps[other].status.final:
            return None
    return Move.SKIP if _is_skipped(node, state) else Move.START


def _by_quorum(node: GraphNode, state: RunState, quorum: int) -> Move | None:
    completed = sum(state.steps[one].status is StepStatus.COMPLETED for one in node.links.needs)
    if completed >= quorum:
        return Move.START
    return Move.SKIP if all(state.steps[one].status.final for one in node.waits) else None


def _is_skipped(node: GraphNode, state: RunState) -> bool:
    if node.rescues:
        return not any(state.steps[one].status is StepStatus.FAILED for one in node.rescues)
    needs = node.links.needs
    return bool(needs) and not node.links.joins and all(state.steps[one].status is StepStatus.SKIPPED for one in needs)


def why_skipped(graph: Graph, step_id: str) -> str:
    """The reason of a planned skip, for people."""
    node = graph.nodes[step_id]
    if node.rescues:
        return "no step that it stands in for has failed"
    if node.links.quorum is not None:
        return f"fewer than {node.links.quorum} of the steps that it needs were completed"
    return "everything that it needs was skipped"


def moves_after(graph: Graph, state: RunState, changed: Collection[str]) -> list[tuple[str, Move]]:
    """The moves that became possible because the steps in `changed` were settled. None of them is given twice."""
    candidates = dict.fromkeys(dependent for step in changed for dependent in graph.nodes[step].dependents)
    return [
        (step, move)
        for step in candidates
        if not _was_due_before(graph.nodes[step], state, changed) and (move := decide(graph, state, step)) is not None
    ]


def _was_due_before(node: GraphNode, state: RunState, changed: Collection[str]) -> bool:
    """Whether a quorum was reached before `changed` were settled, so that the step is about to start already."""
    quorum = node.links.quorum
    if quorum is None or node.rescues:
        return False
    earlier = (one for one in node.links.needs if one not in changed)
    return sum(state.steps[one].status is StepStatus.COMPLETED for one in earlier) >= quorum


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
