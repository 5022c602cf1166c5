"""The elements of a `foreach` step while they are worked off: which is next, and how many are under way."""

from collections.abc import Mapping
from typing import Any

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from engine.state import TaskState

MAX_ELEMENTS = 10_000


class Elements:
    """A list and a window of at most `concurrency` open elements that moves over it."""

    def __init__(self, values: list[JsonValue], concurrency: int, tasks: Mapping[int, TaskState]) -> None:
        self._values = values
        self._concurrency = concurrency
        self._waiting = iter([index for index in range(len(values)) if index not in tasks])
        self._open = sum(1 for task in tasks.values() if not task.status.final)

    @classmethod
    def of(cls, found: Any, concurrency: int, tasks: Mapping[int, TaskState] | None = None) -> "Elements":
        """Elements of what the `foreach` expression gave; `tasks` are those under way or done already.

        Raises:
            StepError: it is not a list, or too long a one.
        """
        if not isinstance(found, list):
            raise StepError(ErrorClass.EXPRESSION, f"`foreach` gave {type(found).__name__} instead of a list")
        if len(found) > MAX_ELEMENTS:
            raise StepError(
                ErrorClass.EXPRESSION, f"`foreach` gave {len(found)} elements; at most {MAX_ELEMENTS} are allowed"
            )
        return cls(found, concurrency, tasks or {})

    @property
    def size(self) -> int:
        """How many elements there are."""
        return len(self._values)

    def value(self, index: int) -> JsonValue:
        """The element at a position."""
        return self._values[index]

    def take(self) -> int | None:
        """The next element to start, if the window has room."""
        if self._open >= self._concurrency:
            return None
        index = next(self._waiting, None)
        if index is not None:
            self._open += 1
        return index

    def finish(self) -> None:
        """One element is done: the window moves on."""
        self._open -= 1
