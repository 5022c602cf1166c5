"""The same body again and again, until a condition holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from core.run import RunStatus
from engine.composition.body import Body
from engine.composition.composition import ENDED, Child, ChildAsk, Evaluate, Finished, Progress
from engine.composition.failure import failure_of


@dataclass(frozen=True, slots=True)
class Loop:
    """Run the body at least once.

    Attributes:
        until: CEL over `output` (of the body), `index` (from 0) and `input`.
        max_iterations: the bound.
        delay: seconds between the end of one and the start of the next.
        goes_on: give the last output when the bound is reached, instead of failing.
    """

    body: Body
    input: dict[str, Any]
    until: str
    max_iterations: int
    delay: float = 0.0
    goes_on: bool = False


class LoopComposition:
    """Children come one after another, so the last one says all."""

    def __init__(self, asked: Loop) -> None:
        self._asked = asked

    async def advance(
        self, children: Mapping[int, Child], evaluate: Evaluate, ended: Iterable[int] | None = None
    ) -> Progress:
        """See `Composition`."""
        if not children:
            return Progress(start=(self._ask(0, None),))
        # Indices have no gaps: an iteration starts when the one before it has ended.
        index = len(children) - 1
        child = children[index]
        if child.status not in ENDED:
            return Progress()
        if child.status != RunStatus.COMPLETED:
            return Progress(failed=failure_of(child, f"iteration {index}", index=index))
        try:
            over = await self._is_over(child.output, index, evaluate)
        except StepError as error:
            return Progress(failed=error)
        return self._after(child.output, index, over)

    def _after(self, output: JsonValue, index: int, over: bool) -> Progress:
        asked = self._asked
        if not over and index + 1 < asked.max_iterations:
            return Progress(start=(self._ask(index + 1, output),), wake_at_delay=asked.delay or None)
        if over or asked.goes_on:
            return Progress(done=Finished({"iterations": index + 1, "output": output, "exhausted": not over}))
        message = f"`until` did not hold after {asked.max_iterations} iterations."
        return Progress(failed=StepError(ErrorClass.POLICY, message, detail={"iterations": index + 1}))

    async def _is_over(self, output: JsonValue, index: int, evaluate: Evaluate) -> bool:
        asked = self._asked
        verdict = await evaluate(asked.until, {"output": output, "index": index, "input": asked.input})
        if not isinstance(verdict, bool):
            message = f"`until` gave no true or false after iteration {index}: write a comparison."
            raise StepError(ErrorClass.EXPRESSION, message, detail={"index": index})
        return verdict

    def _ask(self, index: int, previous: JsonValue) -> ChildAsk:
        given = {**self._asked.input, "loop": {"index": index, "previous": previous}}
        return self._asked.body.ask(index, given, f"iteration {index}")
