"""What is asked for at the same time, done in one call: while one call is under way the next one collects."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batch(Generic[Item, Result]):
    """See the module.

    Args:
        act: does it for many items; gives one result for each, in order. What it raises goes to all of them.
        most: items in one call.
    """

    def __init__(self, act: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], most: int = 500) -> None:
        self._act = act
        self._most = most
        self._open: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._working: asyncio.Task[None] | None = None

    def put(self, item: Item) -> asyncio.Future[Result]:
        """Ask for one item. Who gives up waiting does not undo it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._open.append((item, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return future

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while self._working is not None:
            await asyncio.wait((self._working,))

    async def _work(self) -> None:
        try:
            while self._open:
                batch = [self._open.popleft() for _ in range(min(self._most, len(self._open)))]
                await self._once(batch)
        finally:
            self._working = None

    async def _once(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._act([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 -- task boundary: whoever asked gets it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
