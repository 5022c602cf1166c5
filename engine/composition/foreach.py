"""One child for each element of a list, some of them at a time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from core.errors import StepError
from core.json import JsonValue
from core.run import RunStatus
from engine.composition.body import Body
from engine.composition.composition import ENDED, Child, ChildAsk, Evaluate, Finished, Progress
from engine.composition.failure import class_of, failure_of

MAX_ITEMS = 10_000
MAX_ERRORS = 100
"""Errors that the output names; the count is of all."""


@dataclass(frozen=True, slots=True)
class ForEach:
    """Run the body for each item.

    Attributes:
        input: what each child gets besides `item` and `index`.
        concurrency: how many run at once.
        most_failures: how many items may fail for good.
        retries: how often an item that failed is run again.
    """

    items: list[JsonValue]
    body: Body
    input: dict[str, Any]
    concurrency: int = 10
    most_failures: int = 0
    retries: int = 0


class ForEachComposition:
    """A window over the items.

    The memory holds what each call would otherwise have to find among all children: which of them are under way, which
    failed, and up to where all were started.
    """

    def __init__(self, asked: ForEach) -> None:
        self._asked = asked
        self._seen: set[int] = set()
        self._open: set[int] = set()
        self._again: set[int] = set()
        self._failed: set[int] = set()
        self._completed = 0
        self._next = 0

    async def advance(
        self, children: Mapping[int, Child], evaluate: Evaluate, ended: Iterable[int] | None = None
    ) -> Progress:
        """See `Composition`."""
        fresh = self._meet(children)
        for index in (*fresh, *(list(self._open) if ended is None else ended)):
            self._look_at(index, children)
        if len(self._failed) > self._asked.most_failures:
            return Progress(cancel=tuple(sorted(self._open)), failed=self._failure(children))
        if self._completed + len(self._failed) == len(self._asked.items):
            return Progress(done=Finished(self._output(children)))
        return Progress(start=tuple(self._asks(children)))

    def _meet(self, children: Mapping[int, Child]) -> list[int]:
        """Children that were started since the last call, repeated ones included."""
        fresh = [index for index in self._again if children[index].status not in ENDED or self._spent(children[index])]
        while self._next in children:
            self._see(self._next, fresh)
            self._next += 1
        if len(children) > len(self._seen):
            # Started out of order. That is never asked for, but would be counted wrong.
            for index in children.keys() - self._seen:
                self._see(index, fresh)
        for index in fresh:
            self._again.discard(index)
            self._open.add(index)
        return fresh

    def _see(self, index: int, fresh: list[int]) -> None:
        if index not in self._seen:
            self._seen.add(index)
            fresh.append(index)

    def _look_at(self, index: int, children: Mapping[int, Child]) -> None:
        if index not in self._open or children[index].status not in ENDED:
            return
        self._open.discard(index)
        child = children[index]
        if child.status == RunStatus.COMPLETED:
            self._completed += 1
        elif self._spent(child):
            self._failed.add(index)
        else:
            self._again.add(index)

    def _spent(self, child: Child) -> bool:
        """Whether the child is not to be repeated: it has ended well, or as often as it may."""
        return child.status != RunStatus.FAILED or child.tries > self._asked.retries

    def _asks(self, children: Mapping[int, Child]) -> Iterator[ChildAsk]:
        room = self._asked.concurrency - len(self._open)
        again = sorted(self._again)[: max(0, room)]
        first = (index for index in range(self._next, len(self._asked.items)) if index not in children)
        for index in (*again, *islice(first, max(0, room - len(again)))):
            given = {**self._asked.input, "item": self._asked.items[index], "index": index}
            yield self._asked.body.ask(index, given, f"item {index}")

    def _failure(self, children: Mapping[int, Child]) -> StepError:
        first = min(self._failed)
        failure = failure_of(children[first], f"item {first}", index=first)
        if self._asked.most_failures == 0:
            return failure
        said = f"more than {self._asked.most_failures} of {len(self._asked.items)} items failed; {failure.message}"
        return StepError(failure.error_class, said, detail={"index": first, "failed": len(self._failed)})

    def _output(self, children: Mapping[int, Child]) -> dict[str, JsonValue]:
        failed = sorted(self._failed)
        results = [None if index in self._failed else children[index].output for index in range(len(self._asked.items))]
        errors = [
            {
                "index": index,
                "class": class_of(children[index]).value,
                "message": failure_of(children[index], "").message,
            }
            for index in failed[:MAX_ERRORS]
        ]
        return {"results": results, "succeeded": self._completed, "failed": len(failed), "errors": errors}
