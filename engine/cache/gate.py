"""Where equal calls of one process wait for the first of them."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gate(Generic[T]):
    """Closed with a result, or with None when somebody else has to try.

    Attributes:
        holder: who goes first.
        flying: the first makes the call; before that it only asks.
    """

    __slots__ = ("_asked_at", "_future", "_listeners", "_told", "flying", "holder")

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.flying = False
        self._told = False
        self._asked_at = 0.0
        self._listeners: list[Callable[[], None]] = []
        self._future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()

    @property
    def result(self) -> T | None:
        """What it was closed with."""
        return self._future.result()

    def listen(self, listener: Callable[[], None]) -> None:
        """Be told when there is need to wait."""
        if self.flying or self._told:
            listener()
        self._listeners.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Be told no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def fly(self) -> None:
        """The first makes the call now: the others wait for it, not it for itself."""
        self.flying = True
        self._listeners = self._listeners[1:]
        self.tell()

    def tell(self) -> None:
        """There is need to wait."""
        self._told = True
        for listener in self._listeners:
            listener()

    def doubt(self, now: float, after: float) -> bool:
        """Whether it is time to ask if the call is still under way; true for one of those who wait."""
        if now - self._asked_at < after:
            return False
        self._asked_at = now
        return True

    async def wait(self, seconds: float) -> bool:
        """Whether it was closed within this time."""
        done, _ = await asyncio.wait((self._future,), timeout=seconds)
        return bool(done)

    def close(self, result: T | None) -> None:
        """Let all pass."""
        if not self._future.done():
            self._future.set_result(result)
