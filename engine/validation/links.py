"""Faults of the graph: double ids, unknown steps, cycles, and steps that stand alone.

An orphan is a step that waits for nothing, that nothing waits for and whose result no output uses, in a workflow whose
other steps do connect. When no step connects to another, the workflow is a plain bag of parallel steps, and right.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from core.errors import Fault
from engine.graph import StepLinks, find_cycle, quorum_of, waits_of
from engine.references import needed_steps
from engine.validation.draft import StepDraft
from engine.validation.expressions import Scan
from engine.wording import did_you_mean, nearest

_MAX_CYCLES = 20


@dataclass(frozen=True, slots=True)
class LinkedStep:
    """A step with its compiled expressions; `joins` as its node says, if that is known."""

    draft: StepDraft
    scan: Scan
    joins: bool

    @property
    def quorum(self) -> int | None:
        """See `StepLinks`."""
        return quorum_of((self.draft.node or "").partition("@")[0], self.draft.params or {})


def by_id(drafts: Iterable[StepDraft]) -> tuple[dict[str, StepDraft], list[Fault]]:
    """The steps that have an id, the first of each, and a fault for each further one."""
    steps: dict[str, StepDraft] = {}
    faults: list[Fault] = []
    for draft in drafts:
        if draft.id is None:
            continue
        first = steps.setdefault(draft.id, draft)
        if first is not draft:
            sentence = f"the id `{draft.id}` is taken by {first.path} already; ids are unique in a workflow"
            faults.append(Fault(f"{draft.path}.id", "duplicate_id", sentence))
    return steps, faults


def name_faults(draft: StepDraft, steps: Mapping[str, StepDraft]) -> Iterator[Fault]:
    """Names in `needs` and `on_error` that are no other step's."""
    names = list(draft.needs)
    if draft.fallback is not None:
        names.append((f"{draft.path}.on_error.use", draft.fallback))
        if draft.fallback == draft.id:
            said = f"a step cannot be its own fallback: {draft.id} → {draft.id}"
            yield Fault(f"{draft.path}.on_error.use", "cycle", said)
    for path, name in names:
        if name not in steps:
            suggestion = nearest(name, (one for one in steps if one != draft.id))
            yield Fault(path, "unknown_step", f"there is no step `{name}`{did_you_mean(suggestion)}", suggestion)


def links_of(linked: Mapping[str, LinkedStep], continues: bool) -> dict[str, StepLinks]:
    """The links as the graph wants them. `continues` is what the policies say for steps that do not."""
    return {
        step_id: StepLinks(
            id=step_id,
            needs=frozenset(name for _, name in one.draft.needs) | needed_steps(one.scan.references),
            fallback=one.draft.fallback if one.draft.fallback != step_id else None,
            continues=one.draft.continues if one.draft.continues is not None else continues,
            joins=one.joins,
            quorum=one.quorum,
        )
        for step_id, one in linked.items()
    }


def cycle_faults(links: Mapping[str, StepLinks], steps: Mapping[str, StepDraft]) -> Iterator[Fault]:
    """One fault for each circle, circles with steps in common aside."""
    waits = waits_of(links)
    order = {step_id: position for position, step_id in enumerate(steps)}
    for _ in range(_MAX_CYCLES):
        cycle = find_cycle(waits)
        if cycle is None:
            return
        first = min(range(len(cycle) - 1), key=lambda at: order[cycle[at]])
        path = [*cycle[first:-1], *cycle[:first], cycle[first]]
        said = "the step waits for itself" if len(path) == 2 else "each of these steps waits for the next"
        shown = path if len(path) <= 12 else [*path[:6], "…", *path[-5:]]
        rescue = _through_fallback(path, links)
        yield Fault(steps[path[0]].path, "cycle", f"{said}: {' → '.join(shown)}{rescue}")
        waits = {step_id: before for step_id, before in waits.items() if step_id not in set(cycle)}


def _through_fallback(path: list[str], links: Mapping[str, StepLinks]) -> str:
    """Says why, where a step waits for another that it does not name."""
    for waiting, other in pairwise(path):
        if other in links[waiting].needs:
            continue
        if links[other].fallback == waiting:
            return f" (`{waiting}` is the fallback of `{other}`)"
        for need in sorted(links[waiting].needs):
            if need in links and links[need].fallback == other:
                return f" (`{waiting}` needs `{need}`, whose fallback is `{other}`)"
    return ""


def orphan_faults(links: Mapping[str, StepLinks], linked: Mapping[str, LinkedStep], outputs: Scan) -> Iterator[Fault]:
    """See the module. A step that may be connected by something that is faulty itself is given the benefit of doubt."""
    connected: set[str] = set()
    for link in links.values():
        others = {name for name in (*link.needs, link.fallback) if name is not None and name in links}
        if others:
            connected |= others | {link.id}
    if not connected:
        return
    for name in needed_steps(outputs.references) | {name for link in links.values() for name in link.needs}:
        # A mistyped name connects the step that it means; the slip itself is reported elsewhere.
        meant = name if name in links else nearest(name, links)
        connected |= {meant} if meant else set()
    broken = [text for one in linked.values() for text in one.scan.broken] + outputs.broken
    for step_id, one in linked.items():
        if step_id not in connected and not _may_connect(one) and not _mentioned(step_id, broken):
            sentence = f"the step `{step_id}` is connected to nothing: it needs no step and no step or output uses it"
            yield Fault(one.draft.path, "orphan_step", f"{sentence}; connect it with `needs`, or remove it")


def _may_connect(one: LinkedStep) -> bool:
    """Whether the step names others that do not exist, or might in an expression that does not compile."""
    return bool(
        one.draft.needs
        or one.draft.fallback
        or needed_steps(one.scan.references)
        or any("steps" in text for text in one.scan.broken)
    )


def _mentioned(step_id: str, broken: Iterable[str]) -> bool:
    return any(f"steps.{step_id}" in text or f'"{step_id}"' in text for text in broken)
