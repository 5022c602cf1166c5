"""Named branches that run at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.errors import StepError
from core.json import JsonValue
from core.run import RunStatus
from engine.composition.body import Body
from engine.composition.composition import ENDED, Child, Evaluate, Finished, Progress
from engine.composition.failure import failure_of


@dataclass(frozen=True, slots=True)
class Branch:
    """One of them."""

    name: str
    body: Body
    input: JsonValue


@dataclass(frozen=True, slots=True)
class Parallel:
    """Run all branches until enough of them are completed.

    Attributes:
        enough: how many that is; the others are cancelled then.
        goes_on: give what there is when fewer can be completed, instead of failing.
    """

    branches: tuple[Branch, ...]
    enough: int
    goes_on: bool = False


class ParallelComposition:
    """There are few branches, so each call looks at all of them."""

    def __init__(self, asked: Parallel) -> None:
        self._asked = asked

    async def advance(
        self, children: Mapping[int, Child], evaluate: Evaluate, ended: Iterable[int] | None = None
    ) -> Progress:
        """See `Composition`."""
        branches, enough = self._asked.branches, self._asked.enough
        missing = [index for index in range(len(branches)) if index not in children]
        running = [index for index, child in sorted(children.items()) if child.status not in ENDED]
        completed = [index for index, child in sorted(children.items()) if child.status == RunStatus.COMPLETED]
        if len(completed) >= enough or (self._asked.goes_on and not running and not missing):
            output = {branches[index].name: children[index].output for index in completed}
            return Progress(cancel=tuple(running), done=Finished(output))
        if not self._asked.goes_on and len(completed) + len(running) + len(missing) < enough:
            return Progress(cancel=tuple(running), failed=self._failure(children))
        start = (branches[index].body.ask(index, branches[index].input, branches[index].name) for index in missing)
        return Progress(start=tuple(start))

    def _failure(self, children: Mapping[int, Child]) -> StepError:
        branches, enough = self._asked.branches, self._asked.enough
        failed = [index for index, one in sorted(children.items()) if one.status in ENDED - {RunStatus.COMPLETED}]
        # The branch that failed says more than one that was cancelled.
        first = min(failed, key=lambda index: (children[index].status != RunStatus.FAILED, index))
        name = branches[first].name
        if len(failed) == 1:
            return failure_of(children[first], f"branch {name}", branch=name)
        failure = failure_of(children[first], f"{enough} of {len(branches)} branches must complete; branch {name}")
        return StepError(failure.error_class, failure.message, detail={"branch": name, "failed": len(failed)})
