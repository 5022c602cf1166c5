"""The graph of a workflow: who waits for whom. Pure.

Two kinds of edges. `needs` is what a step means to use: it decides whether the step is skipped because everything that
it needs was skipped. `waits` adds what has to be settled first without being used, namely the fallback step of
a needed step.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.json import JsonValue


@dataclass(frozen=True, slots=True)
class StepLinks:
    """What the graph has to know of a step.

    Attributes:
        needs: steps whose results it uses or that it names in `needs`.
        fallback: the step that runs when this one fails (`on_error: {use: ...}`).
        continues: whether the run goes on when this step fails.
        joins: whether the step runs although all that it needs was skipped (`flow.merge`).
        quorum: how many of `needs` must be completed for the step to start; None when it waits for the end of all.
    """

    id: str
    needs: frozenset[str] = frozenset()
    fallback: str | None = None
    continues: bool = False
    joins: bool = False
    quorum: int | None = None


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A step in the graph. `rescues` names the steps for which it is the fallback."""

    links: StepLinks
    waits: tuple[str, ...]
    dependents: tuple[str, ...]
    rescues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """An acyclic graph of steps. `order` is topological and, where that leaves a choice, as written."""

    nodes: Mapping[str, GraphNode]
    order: tuple[str, ...]


class CycleError(ValueError):
    """The steps wait for each other in a circle. `path` starts and ends with the same step."""

    def __init__(self, path: list[str]) -> None:
        super().__init__("steps wait for each other in a circle: " + " → ".join(path))
        self.path = path


def quorum_of(node_name: str, with_: Mapping[str, JsonValue]) -> int | None:
    """The `quorum` of a step, which the parameters of `flow.merge` say.

    Args:
        node_name: without the version.
        with_: the parameters as written.
    """
    if node_name != "flow.merge":
        return None
    if with_.get("mode") == "any":
        return 1
    count = with_.get("count")
    counted = with_.get("mode") == "count" and isinstance(count, int) and not isinstance(count, bool)
    return count if counted else None


def waits_of(links: Mapping[str, StepLinks]) -> dict[str, tuple[str, ...]]:
    """For each step, the steps that must be settled before it can be decided. Unknown names are left out."""
    rescues: dict[str, list[str]] = {}
    for one in links.values():
        if one.fallback in links:
            rescues.setdefault(str(one.fallback), []).append(one.id)
    waits: dict[str, tuple[str, ...]] = {}
    for one in links.values():
        wanted = dict.fromkeys(need for need in sorted(one.needs) if need in links)
        for rescued in rescues.get(one.id, ()):
            wanted.setdefault(rescued)
        unsettled = list(wanted)
        for need in unsettled:
            fallback = links[need].fallback
            # The result of a step with a fallback is settled only when the fallback is, which may have one itself.
            if fallback in links and fallback != one.id and fallback not in wanted:
                wanted[str(fallback)] = None
                unsettled.append(str(fallback))
        waits[one.id] = tuple(wanted)
    return waits


def build(steps: Iterable[StepLinks]) -> Graph:
    """Build the graph.

    Raises:
        CycleError: the steps wait for each other in a circle.
        KeyError: a step names one that does not exist.
    """
    links = {one.id: one for one in steps}
    for one in links.values():
        for name in (*one.needs, *([one.fallback] if one.fallback else [])):
            if name not in links:
                raise KeyError(name)
    waits = waits_of(links)
    cycle = find_cycle(waits)
    if cycle:
        raise CycleError(cycle)
    dependents: dict[str, list[str]] = {one: [] for one in links}
    rescues: dict[str, list[str]] = {one: [] for one in links}
    for one in links.values():
        for wait in waits[one.id]:
            dependents[wait].append(one.id)
        if one.fallback:
            rescues[one.fallback].append(one.id)
    nodes = {
        one.id: GraphNode(one, waits[one.id], tuple(dependents[one.id]), tuple(rescues[one.id]))
        for one in links.values()
    }
    return Graph(nodes, _topological(waits, dependents))


def _topological(waits: Mapping[str, tuple[str, ...]], dependents: Mapping[str, list[str]]) -> tuple[str, ...]:
    open_waits = {step: len(before) for step, before in waits.items()}
    written = list(waits)
    position = {step: index for index, step in enumerate(written)}
    ready = [position[step] for step, count in open_waits.items() if count == 0]
    order: list[str] = []
    while ready:
        step = written[heapq.heappop(ready)]
        order.append(step)
        for dependent in dependents[step]:
            open_waits[dependent] -= 1
            if open_waits[dependent] == 0:
                heapq.heappush(ready, position[dependent])
    return tuple(order)


def find_cycle(waits: Mapping[str, Iterable[str]]) -> list[str] | None:
    """One circle, as a path whose first and last step are the same; None when there is none. Does not recurse."""
    done: set[str] = set()
    for start in waits:
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start}
        branches = [iter(waits[start])]
        while branches:
            step = next(branches[-1], None)
            if step is None:
                branches.pop()
                finished = path.pop()
                on_path.discard(finished)
                done.add(finished)
            elif step in on_path:
                return [*path[path.index(step) :], step]
            elif step not in done and step in waits:
                path.append(step)
                on_path.add(step)
                branches.append(iter(waits[step]))
    return None
