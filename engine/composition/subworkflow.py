"""One child: another workflow as a step."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.json import JsonValue
from core.run import RunStatus
from engine.composition.body import Body
from engine.composition.composition import ENDED, Child, Evaluate, Finished, Progress
from engine.composition.failure import failure_of

_ONLY = 0


@dataclass(frozen=True, slots=True)
class SubWorkflow:
    """Run it once; its outputs are the step's.

    Attributes:
        context: replaces the run's own, when given.
    """

    body: Body
    input: JsonValue
    context: dict[str, str] | None = None


class SubWorkflowComposition:
    """See the module."""

    def __init__(self, asked: SubWorkflow) -> None:
        self._asked = asked

    async def advance(
        self, children: Mapping[int, Child], evaluate: Evaluate, ended: Iterable[int] | None = None
    ) -> Progress:
        """See `Composition`."""
        child = children.get(_ONLY)
        asked = self._asked
        if child is None:
            return Progress(start=(asked.body.ask(_ONLY, asked.input, asked.body.workflow or "body", asked.context),))
        if child.status not in ENDED:
            return Progress()
        if child.status == RunStatus.COMPLETED:
            return Progress(done=Finished(child.output))
        return Progress(failed=failure_of(child, ""))
